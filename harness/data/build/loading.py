"""Builds data sets: while loading them, in the cache or a temporary folder; or in a new folder."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.data import cache, store
from harness.data.build.building import Progress, build
from harness.data.build.summary import FILE_NAME, Built, notes_in
from harness.data.options import BuildOptions, SourceConfig
from harness.data.ragged import RaggedSets
from harness.data.readers.formats import open_source
from harness.data.readers.records import Source
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A data set that was built."""

    sets: RaggedSets
    num_test_rows: int
    """Number of test rows, which come first."""
    vocabulary: Vocabulary
    notes: Sequence[str]


def load_or_build(source: Source, config: SourceConfig, *, unique: bool) -> Loaded:
    """Returns the data set of a source, from the cache if it was built before."""
    options, seed = config.build, config.split_seed

    def write(folder: Path) -> None:
        build(source, options, folder, unique=unique, seed=seed)

    if config.data_cache == "on" and isinstance(source.path, Path):
        paths = [source.path, *([Path(options.test_data)] if options.test_data else [])]
        found = cache.through(paths, (options, unique, seed), write, _load)
        if found is not None:
            return found
    with tempfile.TemporaryDirectory() as folder:  # its files stay mapped
        write(Path(folder, "data"))
        return _load(Path(folder, "data"))


def build_folder(
    path: Path,
    options: BuildOptions,
    output: Path,
    *,
    unique: bool,
    seed: int,
    max_data_bytes: int,
    started: Callable[[Source], Progress],
) -> Built:
    """Builds a data set in a new folder.

    Args:
        path: the source.
        output: the new folder.
        options, unique, seed: as of `build`.
        max_data_bytes: limit of the unpacked size of an archive or a Parquet file.
        started: is called with the source; returns the callback for the progress.

    Raises:
        InputError: as `build`; or if the folder exists.
        OSError: as `build`.
    """
    source = open_source(path, options, max_data_bytes=max_data_bytes)
    with store.new_folder(output) as folder:
        return build(source, options, folder, unique=unique, seed=seed, progress=started(source))


def _load(folder: Path) -> Loaded:
    return Loaded(
        sets=store.load(folder),
        num_test_rows=store.held_out_rows(folder),
        vocabulary=Vocabulary.load(folder / VOCABULARY_FILE_NAME),
        notes=notes_in(folder / FILE_NAME),
    )
