"""The settings of `harness.load`: which data to load, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from harness.base.checks import Checked, Number, Whole, require
from harness.base.reading import MAX_UNPACKED_BYTES

Tokenizer = Literal["keras", "punctuation", "whitespace", "scikit-learn", "characters"]
Weighting = Literal["binary", "count", "tf_idf"]
Kind = Literal["texts", "tokens", "sets"]  # form of a source's rows
Seed = Annotated[int, Whole(0, 2**32 - 1)]
# The options by which words become ids, and those of them that do not apply to rows of each kind.
OF_WORDS = (
    *("tokenizer", "ngrams", "num_tokens", "min_count", "hash_bits", "unknown"),
    *("weighting", "normalize"),
)
NOT_OF: Mapping[Kind, Sequence[str]] = {
    "texts": (),
    "tokens": ("tokenizer", "ngrams"),
    "sets": ("tokenizer", "ngrams", "min_count", "hash_bits", "unknown"),
}
MAX_NGRAMS = 8
MAX_HASH_BITS = 30
MAX_TF_IDF_BITS = 20

# The ids of Keras's data sets: 0 is padding, and the word of rank r has the id r + INDEX_FROM.
START_ID, UNKNOWN_ID, INDEX_FROM = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class ImdbOptions(Checked):
    """How to read a file in the format of Keras's imdb.npz, as keras.datasets.imdb.load_data does
    by default, except for `num_words`."""

    num_words: Annotated[int | None, Whole()] = 10_000
    """Replace ids from this one on by the id of unknown words, 2; the tutorial has 10,000. None
    keeps every id but the highest, as Keras does."""
    split: Literal["tutorial", "standard"] = "tutorial"
    """`tutorial` merges both parts of the file and holds out the first rows; `standard` keeps the
    file's parts (25,000 to train, 25,000 to test)."""
    held_out_rows: Annotated[int, Whole()] = 10_000
    """Rows that the tutorial's split holds out."""


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(Checked):
    """Size and seed of the synthetic corpus."""

    synthetic_rows: Annotated[int, Whole()] = 50_000
    """Rows, half of each class; a fifth is held out."""
    synthetic_tokens: Annotated[int, Whole(100, 2**20)] = 10_000
    """The number of ids: from 100 to 2**20, beyond which the rarest words would never occur."""
    synthetic_seed: Seed = 0
    """Seed of the corpus, which is the same with any NumPy version."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions(Checked):
    """How texts, tables and archives become a data set."""

    test_data: str | None = None
    """A file or folder of test rows, like --data, whose rows are then all train rows."""
    test_split: Annotated[float, Number(above=0, below=1)] = 0.2
    """Share of the rows to test on, drawn at random, the same share of each class, if the data has
    no test rows of its own."""
    text_column: str | None = None
    """Name of the column with the texts (or the ids, or the lists of strings); its number from 1 in
    a file without a header. Left out: found where it is plain to see."""
    label_column: str | None = None
    """Name of the column with the labels, or its number, as for --text-column."""
    label_separator: str | None = None
    """Splits a cell into several labels, as a comma does in "joy,love"."""
    tokenizer: Tokenizer = "keras"
    """How texts are divided into words. `keras`: lower case, punctuation as spaces, as Keras's
    Tokenizer; `punctuation`: lower case, and each punctuation mark is a word; `whitespace`: what
    stands between white space; `scikit-learn`: as its vectorizers; `characters`: lower case, and
    each character is a word, for languages without spaces and for short strings."""
    ngrams: Annotated[int, Whole(1, MAX_NGRAMS)] = 1
    """Length, in words, of the longest runs of words that have ids as well; of `characters`, 3 or
    more are usual."""
    num_tokens: Annotated[int | None, Whole(5)] = None
    """Number of ids: four that stand for no word, then those of the most frequent words of the
    train rows. Left out: 10,000, or for data that holds ids, as many as it shows."""
    min_count: Annotated[int, Whole()] = 1
    """Leave out words that are rarer in the train rows."""
    hash_bits: Annotated[int | None, Whole(1, MAX_HASH_BITS)] = None
    """Bits to hash words to, instead of counting words: there is no list of words to keep."""
    unknown: Literal["id", "drop"] = "id"
    """Words outside the vocabulary. `id`: one id stands for all of them; `drop`: they are left out,
    so that the words of new texts take no share of a row's weights."""
    weighting: Weighting = "binary"
    """Weight of an id in a row. `binary`: 1; `count`: how often the row has it; `tf_idf`: its count
    times the logarithm of how rare it is, as in Keras's TextVectorization."""
    normalize: Literal["none", "l2"] = "none"
    """`l2` divides the weights of a row by the root of their squares' sum."""
    strict: bool = False
    """Refuse data in which a row is wrong, instead of leaving the row out and saying so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hash_bits is not None:
            require(
                self.num_tokens is None and self.min_count == 1 and self.unknown == "id",
                "--hash-bits keeps no words; leave out --num-tokens, --min-count and --unknown",
            )
            require(
                self.weighting != "tf_idf" or self.hash_bits <= MAX_TF_IDF_BITS,
                f"--weighting tf_idf keeps a number for each of 2^{self.hash_bits} hashes; set "
                f"--hash-bits to {MAX_TF_IDF_BITS} or less",
            )


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Checked):
    """The data set to use."""

    data: str = "synthetic"
    """`synthetic`, `imdb` (Keras's cached or downloaded file), a path to an .npz in Keras's format,
    a folder written by `harness data build` or `data convert`; or texts: a CSV, TSV, JSONL or
    Parquet file, a folder (or tar or zip) with a folder for each class, or an svmlight file."""
    build: BuildOptions = field(default_factory=BuildOptions)
    imdb: ImdbOptions = field(default_factory=ImdbOptions)
    synthetic: SyntheticOptions = field(default_factory=SyntheticOptions)
    split_seed: Seed = 0
    """Seed for drawing validation rows, and test rows if the data has no split of its own."""
    data_cache: Literal["on", "off"] = "on"
    """Keep the rows of files of 1 MB or more in your cache folder, for later runs to map them."""
    max_data_bytes: Annotated[int, Whole(1, 2**62)] = MAX_UNPACKED_BYTES
    """Limit of the unpacked size of an .npz or Parquet file or an archive, and of the memory for
    reading the rows of an .npz. A small file may be made to fill any memory; raise the limit for a
    large one that you trust."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(SourceConfig):
    """The data set to use, and how to prepare it."""

    word_index: str | None = None
    """JSON file of words and their ranks. None: the one beside the data or in Keras's cache."""
    unique: bool = True
    """Drop repeated ids of a row once, while loading; the multi-hot vector is the same."""
    validation_split: Annotated[float, Number(least=0, below=1)] = 0.0
    """Share of the training rows to set apart for validation, the same share of each class. 0: the
    test rows are the validation rows."""
    validation_rows: Literal["random", "last"] = "random"
    """The rows to set apart. `random`: drawn at random; `last`: the last of each class, where
    rows side by side belong together, as the reviews of one film, and the test rows have others."""
