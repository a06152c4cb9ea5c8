"""What to train on: every setting of the data sets."""

from dataclasses import dataclass, field
from typing import Literal

from harness.config.checks import INT32_MAX, require, require_count


@dataclass(frozen=True, kw_only=True)
class ImdbOptions:
    """The arguments of keras.datasets.imdb.load_data, with its defaults but for `num_words`. They
    hold for data in the format of its file."""

    split: Literal["tutorial", "standard"] = "tutorial"
    """`tutorial` merges both parts of the file and holds out the first rows; `standard` keeps the
    file's parts (25,000 to train, 25,000 to test)."""

    held_out_rows: int = 10_000
    """Rows that the tutorial's split holds out."""

    num_words: int | None = 10_000
    """Ids from here on become `oov_char`; the tutorial's 10,000. None keeps every id but the
    highest, as Keras does."""

    skip_top: int = 0
    """Ids below this become `oov_char`, the start id among them."""

    maxlen: int | None = None
    """Only rows shorter than this are kept, the start id counted. None keeps all."""

    start_char: int | None = 1
    """The id that starts each row. None adds none."""

    oov_char: int | None = 2
    """The id that stands for words left out. None drops them."""

    index_from: int = 3
    """Added to each word's rank to give its id."""

    shuffle_seed: int = 113
    """Of the shuffle of each part of the file."""

    def __post_init__(self) -> None:
        known = self.split in ("tutorial", "standard")
        require(known, f"--split is {self.split!r}; choose tutorial or standard")
        for name, value, least in (
            ("--held-out-rows", self.held_out_rows, 1),
            ("--num-words", self.num_words, 1),
            ("--skip-top", self.skip_top, 0),
            ("--maxlen", self.maxlen, 1),
            ("--start-char", self.start_char, 0),
            ("--oov-char", self.oov_char, 0),
            ("--index-from", self.index_from, 0),
            ("--shuffle-seed", self.shuffle_seed, 0),
        ):
            if value is not None:
                require_count(name, value, least=least, most=INT32_MAX)


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """Size and seed of the synthetic corpus."""

    synthetic_rows: int = 50_000
    """Rows, half of each class; the first fifth is held out."""

    synthetic_tokens: int = 10_000
    """Ids are below this: from 100 to 2**20, beyond which the rarest words would never occur."""

    synthetic_seed: int = 0
    """The same seed gives the same corpus, whatever the NumPy version."""

    def __post_init__(self) -> None:
        require_count("--synthetic-rows", self.synthetic_rows, most=INT32_MAX)
        require_count("--synthetic-tokens", self.synthetic_tokens, least=100, most=2**20)
        require_count("--synthetic-seed", self.synthetic_seed, least=0, most=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on."""

    data: str = "synthetic"
    """`synthetic`, `imdb` (Keras's cached or downloaded file), a path to an .npz in Keras's format,
    or a folder written by `harness data convert`."""

    imdb: ImdbOptions = field(default_factory=ImdbOptions)
    synthetic: SyntheticOptions = field(default_factory=SyntheticOptions)

    word_index: str | None = None
    """JSON file of words and their ranks, to decode reviews. None: looked for beside the data and
    in Keras's cache."""

    unique: bool = True
    """Drop repeated ids of a row once, while loading; the multi-hot vector is the same."""
