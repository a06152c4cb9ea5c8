"""The one entry to data: a name or a path becomes a `Dataset` of train and test rows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import DataConfig, ImdbOptions, SyntheticOptions
from harness.data import store
from harness.data.imdb import load_imdb
from harness.data.keras_cache import imdb_file
from harness.data.ragged import RaggedSets
from harness.data.synthetic import synthetic_corpus
from harness.data.vocabulary import Vocabulary, find_word_index, read_word_index
from harness.errors import InputError

# Of a set that has no split of its own, the first 1 / _HELD_OUT_PART of the rows is the test set:
# the tutorial's proportion.
_HELD_OUT_PART = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Train and test rows, ready for the pipeline."""

    train: RaggedSets
    test: RaggedSets
    name: str
    """For results: `synthetic`, `imdb`, or the name of the file or folder."""
    vocabulary: Vocabulary | None
    """None when no word index is at hand."""
    vocabulary_note: str
    """Where the words come from, or why there are none."""
    test_comes_first: bool
    """True when the test rows are the head of the data as read, as in the tutorial."""

    @property
    def is_unique(self) -> bool:
        """True when no row holds an id twice."""
        return self.train.is_unique and self.test.is_unique

    @property
    def num_tokens(self) -> int:
        """V, the same for train and test."""
        return self.train.num_tokens

    @property
    def num_classes(self) -> int:
        """The same for train and test."""
        return self.train.num_classes


def load(
    data: str,
    *,
    imdb: ImdbOptions | None = None,
    synthetic: SyntheticOptions | None = None,
    word_index: str | Path | None = None,
    num_tokens: int | None = None,
    unique: bool = True,
) -> Dataset:
    """Loads data by name or path.

    Args:
        data: `synthetic`; `imdb` (Keras's cached or downloaded file); the path of a file in the
            format of Keras's imdb.npz; or the path of a folder written by `store.save`. A file
            that is called like a name is reached as ./imdb.
        imdb: conventions for a file in Keras's format; None for the defaults.
        synthetic: size and seed of the synthetic corpus; None for the defaults.
        word_index: a word index file in Keras's format, instead of the one beside the npz file or
            in Keras's cache.
        num_tokens: V, instead of the one that the data brings.
        unique: whether to drop repeated ids of a row.

    Raises:
        InputError: the data is missing or breaks a rule, an option does not apply to it, or
            `num_tokens` is not above every id.
    """
    path = find(data, imdb=imdb, synthetic=synthetic, word_index=word_index)
    is_npz = path is not None and not path.is_dir()
    test_comes_first = True
    if path is None:
        sets = _resized(synthetic_corpus(synthetic), num_tokens)
        train, test = _hold_out_head(sets, _usual_part(sets))
    elif is_npz:
        imdb = imdb or ImdbOptions()
        train, test = (_resized(part, num_tokens) for part in load_imdb(path, imdb))
        test_comes_first = imdb.split == "tutorial"
    else:
        sets = _resized(store.load(path), num_tokens)
        train, test = _hold_out_head(sets, store.held_out_rows(path) or _usual_part(sets))
    vocabulary, note = _vocabulary(
        path if is_npz else None, word_index, train.num_tokens, imdb or ImdbOptions()
    )
    return Dataset(
        train=train.unique() if unique else train,
        test=test.unique() if unique else test,
        name=train.name,
        vocabulary=vocabulary,
        vocabulary_note=note,
        test_comes_first=test_comes_first,
    )


def find(
    data: str,
    *,
    imdb: ImdbOptions | None = None,
    synthetic: SyntheticOptions | None = None,
    word_index: str | Path | None = None,
) -> Path | None:
    """The file or folder that `data` names, or None for `synthetic`; nothing of it is read.

    Keras's imdb.npz is downloaded if it is asked for and absent.

    Args:
        data: as for `load`.
        imdb: checked to apply to the data, if given.
        synthetic: likewise.
        word_index: likewise.

    Raises:
        InputError: the data is missing, or an option does not apply to it.
    """
    is_synthetic = data == "synthetic"
    path = None if is_synthetic else imdb_file() if data == "imdb" else Path(data)
    if path is not None and not path.exists():
        raise InputError(
            f"No file or folder {path}. Give an imdb.npz in Keras's format, a folder written by "
            "this harness, imdb or synthetic."
        )
    if synthetic is not None and not is_synthetic:
        raise _does_not_apply("The options of the synthetic corpus", data)
    if imdb is not None and (path is None or path.is_dir()):
        raise _does_not_apply("The conventions of Keras's imdb.npz", data)
    if word_index is not None and is_synthetic:
        raise _does_not_apply("Word indexes", data)
    return path


def find_configured(config: DataConfig) -> Path | None:
    """As `find`, for the settings of a run: one that was changed has to apply to the data."""
    return find(config.data, **_changed(config))


def load_configured(config: DataConfig) -> Dataset:
    """Loads what the settings of a run name; a setting that was changed but does not apply to the
    data is an `InputError`, as everything that `load` refuses.
    """
    return load(config.data, unique=config.unique, **_changed(config))


def _changed(config: DataConfig) -> dict[str, Any]:
    return {
        "imdb": config.imdb if config.imdb != ImdbOptions() else None,
        "synthetic": config.synthetic if config.synthetic != SyntheticOptions() else None,
        "word_index": config.word_index,
    }


def _resized(sets: RaggedSets, num_tokens: int | None) -> RaggedSets:
    # Built anew, so the ids are held against the new num_tokens.
    return sets if num_tokens is None else replace(sets, num_tokens=num_tokens)


def _usual_part(sets: RaggedSets) -> int:
    return max(1, sets.num_rows // _HELD_OUT_PART)


def _hold_out_head(sets: RaggedSets, num_rows: int) -> tuple[RaggedSets, RaggedSets]:
    test, train = sets.split(num_rows)
    return train, test


def _vocabulary(
    npz: Path | None, word_index: str | Path | None, num_tokens: int, conventions: ImdbOptions
) -> tuple[Vocabulary | None, str]:
    if word_index is not None:
        path, note = Path(word_index), f"words from {word_index}"
    elif npz is not None:
        found, note = find_word_index(npz)
        if found is None:
            return None, note
        path = found
    else:
        return None, "no words: the ids of this data come without a word index"
    vocabulary = Vocabulary(
        ranks=read_word_index(path), num_tokens=num_tokens, conventions=conventions, source=path
    )
    return vocabulary, note


def _does_not_apply(what: str, data: str) -> InputError:
    return InputError(f"{what} do not apply to --data {data}. Leave them out.")
