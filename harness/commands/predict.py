"""`harness predict`: what a saved network says of texts it has never seen."""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.commands.saved_model import SavedModel, load_saved_model
from harness.config import PredictConfig
from harness.data.keras_cache import cached_file
from harness.data.vocabulary import WORD_INDEX_NAME, Vocabulary, read_word_index
from harness.engine.devices import set_up_devices
from harness.errors import InputError

_SHOWN = 60


def predict(config: PredictConfig, console: Console | None = None) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InputError: when there is no text, no such model or no word index.
    """
    console = console or Console()
    given = config.texts or tuple(line.strip() for line in sys.stdin if line.strip())
    texts = tuple(text for text in given if text.strip())
    if not texts or len(texts) < len(config.texts):
        raise InputError(
            "no text to judge, or an empty one; give texts as arguments, or one a line on standard "
            "input"
        )
    path = Path(config.word_index) if config.word_index else cached_file(WORD_INDEX_NAME)
    if not path.exists():
        raise InputError(f"no word index at {path}; name one with --word-index FILE")
    ranks = read_word_index(path)
    set_up_devices(1)  # before the model, which already takes their memory
    saved = load_saved_model(config.model)
    vocabulary = Vocabulary(
        ranks=ranks, num_tokens=saved.num_tokens, conventions=config.imdb, source=path
    )
    reserved = {config.imdb.start_char, config.imdb.oov_char}
    table = Table()
    for column in ("text", "known words", "class", "its probability"):
        table.add_column(column, justify="left" if column == "text" else "right")
    for text, ids, probabilities in _judged(saved, vocabulary, texts):
        known = sum(token not in reserved for token in ids.tolist())
        total = len(ids) - (config.imdb.start_char is not None)
        taken = int(np.argmax(probabilities))
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
        # No markup in what a user wrote.
        figures = (f"{known} of {total}", str(taken), f"{probabilities[taken]:.3f}")
        table.add_row(Text(shown), *figures)
    console.print(table)
    return 0


def _judged(
    saved: SavedModel, vocabulary: Vocabulary, texts: tuple[str, ...]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each text with its ids and the probability of every class, float32 [num_classes]."""
    rows = [vocabulary.encode(text) for text in texts]
    row_splits = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
    outputs = saved.probabilities(
        {"values": np.concatenate(rows).astype(np.int32), "row_splits": row_splits}
    ).numpy()
    if outputs.shape[1] == 1:
        outputs = np.concatenate([1 - outputs, outputs], axis=1)
    return list(zip(texts, rows, outputs, strict=True))
