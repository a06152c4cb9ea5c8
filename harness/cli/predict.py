"""`harness predict`: the class of any texts, by a saved network."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.data.options import WordIds
from harness.errors import InputError, printable
from harness.quiet import quiet_import

if TYPE_CHECKING:
    from harness.cli.saved_model import SavedModel
    from harness.data.vocabulary import Vocabulary

_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict the class of texts with a saved model that was trained on word ids."""

    model: str
    """Path to a .keras file, to a run folder that holds one, or to a checkpoint of a run."""

    texts: tuple[str, ...] = ()
    """The texts. Left out: one a line from standard input."""

    word_index: str | None = None
    """JSON file of words and their ranks. None: the vocabulary of the model's run, else the one in
    Keras's cache."""

    imdb: WordIds = field(default_factory=lambda: WordIds(num_words=None))


def predict(config: PredictConfig, console: Console | None = None) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InputError: when there is no text, no such model or no word index.
    """
    import numpy as np

    from harness.data.ragged import RaggedSets

    console = console or Console()
    given = config.texts or tuple(line.strip() for line in sys.stdin if line.strip())
    texts = tuple(text for text in given if text.strip())
    if not texts or len(texts) < len(config.texts):
        raise InputError(
            "there is no text, or an empty one; give texts as arguments, or one a line on standard "
            "input"
        )
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.environment import warn_of_gpus
    warn_of_gpus(Console(stderr=True))
    saved = load_saved_model(config.model)
    words = _vocabulary(config, saved)
    names = saved.vocabulary.class_names if saved.vocabulary else ()
    reserved = {words.start_id, words.unknown_id}
    rows = [words.encode(text) for text in texts]
    sets = RaggedSets(
        values=np.concatenate(rows).astype(np.int32),
        row_splits=np.cumsum([0, *map(len, rows)]),
        num_tokens=saved.num_tokens,
        name="the texts",
    )
    outputs = saved.trainer.predict(sets)
    if outputs.shape[1] == 1:
        outputs = np.concatenate([1 - outputs, outputs], axis=1)
    table = Table()
    for column in ("text", "known words", "class", "its probability"):
        table.add_column(column, justify="left" if column == "text" else "right")
    for text, ids, probabilities in zip(texts, rows, outputs, strict=True):
        known = sum(token not in reserved for token in ids.tolist())
        total = len(ids) - (words.start_id is not None)
        taken = int(np.argmax(probabilities))
        label = names[taken] if taken < len(names) else str(taken)
        table.add_row(
            _shown(text), f"{known} of {total}", _shown(label), f"{probabilities[taken]:.3f}"
        )
    console.print(table)
    return 0


def _shown(text: str) -> Text:
    """What a user wrote: no markup of the table, and not too much of it."""
    return Text(printable(text, most=_SHOWN, one_line=True))


def _vocabulary(config: PredictConfig, saved: SavedModel) -> Vocabulary:
    """That of --word-index, else of the model's run, else of the word index in Keras's cache."""
    from harness.data.imdb import cached_file
    from harness.data.vocabulary import WORD_INDEX_NAME, Vocabulary

    words = saved.vocabulary
    if config.word_index is None and words is not None:
        if words.num_tokens > saved.num_tokens:
            raise InputError(
                f"the run's vocabulary has ids below {words.num_tokens}, but {saved.path} knows "
                f"those below {saved.num_tokens}; name the model's own words with --word-index FILE"
            )
        return words
    path = Path(config.word_index) if config.word_index else cached_file(WORD_INDEX_NAME)
    if not path.exists():
        raise InputError(f"no word index at {path}; name one with --word-index FILE")
    return Vocabulary.from_word_index(path, config.imdb, num_tokens=saved.num_tokens)
