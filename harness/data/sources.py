"""The one entry to data: a name or a path becomes a `Dataset` of train and test rows."""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.base.checks import flag_of
from harness.base.decoding import changed, from_mapping
from harness.base.errors import InputError, in_python, printable
from harness.base.reading import read_json
from harness.data import cache, store, vocabulary
from harness.data.imdb import cached_file, imdb_file, load_imdb
from harness.data.options import DataConfig, ImdbOptions, Kind, SyntheticOptions
from harness.data.ragged import RaggedSets
from harness.data.readers.formats import FrameSource, open_source
from harness.data.readers.records import Source
from harness.data.synthetic import synthetic_corpus
from harness.data.vocabulary import Vocabulary
from kernels.files import replacing

# One in _TEST_PART rows is a test row if the data has no split of its own: the tutorial's share.
_TEST_PART = 5
_IMDB_CLASSES = ("negative", "positive")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Rows to train on, to validate on and to test on."""

    train: RaggedSets
    test: RaggedSets
    validation: RaggedSets | None = None
    """Rows of the data's training part that are not in `train`; None if none were asked for."""
    name: str
    """Name in results: `synthetic`, `imdb`, or the name of the file or folder."""
    vocabulary: Vocabulary | None = field(repr=False, default=None)
    """Words of the ids; None if they are not known."""
    vocabulary_note: str = ""
    """Phrase for users that says where the words come from, or why there are none."""

    @property
    def parts(self) -> tuple[RaggedSets, ...]:
        """Train rows, test rows, and validation rows if there are any."""
        return (self.train, self.test, *([self.validation] if self.validation else []))

    @property
    def num_tokens(self) -> int:
        """V, the number of possible ids."""
        return self.train.num_tokens

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.train.num_classes

    @property
    def is_multi_label(self) -> bool:
        """Whether a row may have several classes, or none."""
        return self.train.label_sets is not None

    @in_python()
    def save(self, folder: str | Path) -> None:
        """Writes train and test rows, and the vocabulary, as a folder that `load` reads.

        Raises:
            InputError: if there are validation rows, or as `store.save`.
            OSError: as `store.save`.
        """
        if self.validation:
            raise InputError(
                "a saved data set has no validation rows; give --validation-split to the training"
            )
        rows = RaggedSets.concatenate([self.test, self.train], name=self.name)
        store.save(rows, folder, held_out_rows=self.test.num_rows)
        if self.vocabulary:
            self.vocabulary.save(Path(folder) / vocabulary.FILE_NAME)


@in_python()
def load(
    source: Any,
    *,
    imdb: ImdbOptions | None = None,
    synthetic: SyntheticOptions | None = None,
    unique: bool = True,
    validation_split: float = 0.0,
    split_seed: int = 0,
    use_cache: bool = True,
    **options: Any,
) -> Dataset:
    """Loads data by name or path, or takes it from a frame.

    Args:
        source: `synthetic`; `imdb` (Keras's cached or downloaded file); the path of a file in the
            format of Keras's imdb.npz, of a folder that `Dataset.save` or `harness data build`
            wrote, or of texts, a table or an archive, as `DataConfig.data` lists them. A file that
            is itself called imdb is given as ./imdb. Or a pandas or polars frame or Arrow table.
        imdb, synthetic: options of these data sets; None for the defaults.
        use_cache: whether `data_cache` is on.
        unique, validation_split, split_seed: see `DataConfig`.
        **options: `word_index`, `validation_rows` and `max_data_bytes`, see `DataConfig`; and for
            texts, tables and archives the fields of `BuildOptions`: text_column, ngrams, ...

    Raises:
        InputError: if the data is missing or breaks a rule, or an option does not apply to it.
    """
    is_named = isinstance(source, str | Path)
    given = {
        "data": source if is_named else "table",
        "imdb": {} if imdb is None else asdict(imdb),
        "synthetic": {} if synthetic is None else asdict(synthetic),
        "unique": unique,
        "validation_split": validation_split,
        "split_seed": split_seed,
        "data_cache": "on" if use_cache else "off",
        **options,
    }
    config: DataConfig = from_mapping(DataConfig, given, where="harness.load")
    if is_named:
        return load_configured(config)
    if config.build.test_data is not None:
        raise InputError("test_data names a file, which a frame has none of. Load both as files.")
    if hasattr(source, "columns"):
        return built(config, FrameSource(source, config.build))
    raise InputError(
        f"{type(source).__name__} is no data that can be loaded. Give a name, a path, an Arrow "
        "table, or a frame of pandas or polars, as to_pandas() makes of others; Trainer.fit takes "
        "other containers."
    )


def load_configured(
    config: DataConfig,
    *,
    tells: bool = True,
    known: Vocabulary | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Loads the data that the settings of a run name; `tells` prints notes about it. Texts and
    their labels get the ids that a `known` vocabulary has for them; `progress` is told what is
    being done."""
    path = _checked_path(config)
    if (source := _source(config, path)) is not None:
        known = known if source.kind != "sets" else None
        return built(config, source, tells=tells, known=known, progress=progress)
    sets, num_test_rows = _read(config, path)
    words, note = _vocabulary(config, path, sets.num_tokens)
    return _dataset(config, sets, num_test_rows, words, note)


def source_of(config: DataConfig) -> Source | None:
    """Returns the reader of texts, tables or archives; None for other data."""
    return _source(config, _checked_path(config))


def kind_of(config: DataConfig) -> Kind | None:
    """Returns the form of rows built from texts, tables or archives; None for other data."""
    source = source_of(config)
    return None if source is None else source.kind


def _source(config: DataConfig, path: Path | None) -> Source | None:
    if path is None or not _is_built(path):
        return None
    return open_source(path, config.build, max_data_bytes=config.max_data_bytes)


def built(
    config: DataConfig,
    source: Source,
    *,
    tells: bool = True,
    known: Vocabulary | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Returns the rows of a source as the settings build them; see `load_configured`."""
    from harness.data.build import building  # takes time to import

    def write(folder: Path) -> None:
        how: dict[str, Any] = {"unique": config.unique, "seed": config.split_seed, "known": known}
        building.build(source, config.build, folder, progress=progress, **how)

    def read(folder: Path) -> tuple[RaggedSets, int, Vocabulary, dict[str, Any]]:
        words = Vocabulary.load(folder / vocabulary.FILE_NAME)
        summary = read_json(folder / building.FILE_NAME, remedy="Build the data set again.")
        return *store.load(folder), words, summary

    found = None
    if config.data_cache == "on" and known is None:
        paths = [path for path in (source.path, source.test_path) if isinstance(path, Path)]
        options = config.build, config.unique, config.split_seed
        found = cache.through(paths, options, write, read)
    if found is None:
        with tempfile.TemporaryDirectory() as place, replacing(Path(place, "data")) as folder:
            write(folder)  # a full disk's error names it
            found = read(folder)  # its files stay mapped
    sets, num_test_rows, words, summary = found
    for note in summary.get("notes", ()) if tells else ():
        print(f"note: {printable(str(note), one_line=True)}", file=sys.stderr)
    what = "words of the train rows" if words.takes_texts else "no words: the data holds ids"
    return _dataset(config, sets, num_test_rows, words, what)


def _dataset(
    config: DataConfig, sets: RaggedSets, num_test_rows: int, words: Vocabulary | None, note: str
) -> Dataset:
    if config.unique:
        sets = sets.unique()
    if num_test_rows:
        test, train = sets.split(num_test_rows)
    else:
        num_test_rows = max(1, sets.num_rows // _TEST_PART)
        test, train = sets.stratified_split(num_test_rows, seed=config.split_seed)
    validation = None
    if config.validation_split:
        num_rows = max(1, round(config.validation_split * train.num_rows))
        seed = None if config.validation_rows == "last" else config.split_seed
        validation, train = train.stratified_split(num_rows, seed=seed)
    return Dataset(
        train=train,
        test=test,
        validation=validation,
        name=sets.name,
        vocabulary=words,
        vocabulary_note=note,
    )


def _is_built(path: Path) -> bool:
    is_store = any((path / name).exists() for name in ("meta.json", "values.npy"))
    return not is_store and path.suffix.lower() != ".npz"


def _checked_path(config: DataConfig) -> Path | None:
    """Returns the data's path, None for `synthetic`; refuses changed options that do not apply."""
    data = config.data
    is_synthetic = data == "synthetic"
    path = None if is_synthetic else imdb_file() if data == "imdb" else Path(data)
    if path is not None and not os.path.exists(path):  # Path.exists raises for long names
        raise InputError(
            f"No file or folder {path}. Give texts, a table, an imdb.npz in Keras's format, a "
            "folder written by this harness, imdb or synthetic."
        )
    is_built = path is not None and _is_built(path)
    is_imdb = path is not None and path.is_file() and not is_built
    for options, owner, applies in (
        (config.synthetic, "--data synthetic", is_synthetic),
        (config.build, "texts, tables and archives", is_built),
        (config.imdb, "--data imdb and .npz files in its format", is_imdb),
    ):
        if not applies and (given := changed(options)):
            flags = ", ".join(map(flag_of, given))
            are, them = ("is", "it") if len(given) == 1 else ("are", "them")
            raise InputError(f"{flags} {are} for {owner}, not for --data {data}; leave {them} out.")
    if config.word_index is not None and (is_synthetic or is_built):
        raise InputError(f"--word-index is not for --data {data}, which has no such words.")
    return path


def _read(config: DataConfig, path: Path | None) -> tuple[RaggedSets, int]:
    """Returns all rows, and how many of the first are test rows; 0 if the data does not say."""
    if path is None:
        return synthetic_corpus(config.synthetic), 0
    if path.is_dir():
        return store.load(path)

    def read() -> tuple[RaggedSets, int]:
        sets, num_test_rows = load_imdb(path, config.imdb, max_bytes=config.max_data_bytes)
        return sets.unique() if config.unique else sets, num_test_rows

    def write(folder: Path) -> None:
        sets, num_test_rows = read()
        store.write(sets, folder, held_out_rows=num_test_rows)

    options = config.imdb, config.unique
    found = cache.through([path], options, write, store.load) if config.data_cache == "on" else None
    return found or read()


def _vocabulary(
    config: DataConfig, path: Path | None, num_tokens: int
) -> tuple[Vocabulary | None, str]:
    """Returns the ids' words, and a phrase that says where they come from or were looked for."""
    if path is None:
        return None, "no words: the ids of this data stand for none"
    if config.word_index is not None:
        places = [Path(config.word_index)]
    elif path.is_dir():
        places = [path / vocabulary.FILE_NAME]
    else:
        places = [path.parent / vocabulary.WORD_INDEX_NAME, cached_file(vocabulary.WORD_INDEX_NAME)]
    # A file that the user names must be there: reading it says so if it is not.
    place = next((p for p in places if p.is_file() or config.word_index is not None), None)
    if place is None:
        looked = " nor at ".join(map(str, dict.fromkeys(places)))
        return None, f"no words at {looked}: pass --word-index FILE to see them"
    if place.name == vocabulary.FILE_NAME:
        words = Vocabulary.load(place)
    else:
        names = _IMDB_CLASSES if path.name == "imdb.npz" else ()
        words = Vocabulary.from_word_index(place, num_tokens=num_tokens, class_names=names)
    return words, f"words from {place}"
