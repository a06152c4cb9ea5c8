"""Every setting of a run, with its default and its check.

The command line, its help texts and `--config FILE.toml` are generated from these classes. Nothing
is imported here beyond the standard library, so that `--help` costs no more than parsing does.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from harness.config_file import from_mapping as from_mapping
from harness.config_file import to_mapping as to_mapping
from harness.errors import InputError

Implementation = Literal["dense", "gather", "native"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_INT32_MAX = 2**31 - 1


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _require_count(name: str, value: int | str, *, least: int = 1, most: int | None = None) -> None:
    if isinstance(value, str):
        return  # "auto": the Literal type has admitted it
    if most is None:
        _require(value >= least, f"{name} is {value}; it must be at least {least}")
    else:
        _require(least <= value <= most, f"{name} is {value}; choose from {least} to {most}")


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
        _require(known, f"--split is {self.split!r}; choose tutorial or standard")
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
                _require_count(name, value, least=least, most=_INT32_MAX)


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
        _require_count("--synthetic-rows", self.synthetic_rows, most=_INT32_MAX)
        _require_count("--synthetic-tokens", self.synthetic_tokens, least=100, most=2**20)
        _require_count("--synthetic-seed", self.synthetic_seed, least=0, most=2**32 - 1)


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


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: a multi-hot layer, then fully connected ones. Defaults are the tutorial's."""

    hidden_units: tuple[int, ...] = (50, 50, 50)
    """Units of each hidden layer; the first is the multi-hot layer."""

    dropout: tuple[float, ...] = (0.3, 0.2, 0.0)
    """Dropout rate after each hidden layer; one number holds for all."""

    activation: str = "relu"
    """Activation of the hidden layers, by Keras's name."""

    def __post_init__(self) -> None:
        _require(len(self.hidden_units) > 0, "--hidden-units is empty; name at least one layer")
        for units in self.hidden_units:
            _require_count("--hidden-units", units)
        if len(self.dropout) == 1:
            object.__setattr__(self, "dropout", self.dropout * len(self.hidden_units))
        _require(
            len(self.dropout) == len(self.hidden_units),
            f"--dropout has {len(self.dropout)} rates for {len(self.hidden_units)} hidden layers "
            f"({' '.join(map(str, self.hidden_units))}); give one rate for each, or one for all",
        )
        for rate in self.dropout:
            _require(0 <= rate < 1, f"--dropout holds {rate}; a rate is in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are updated."""

    optimizer: str = "adam"
    """Any Keras optimizer, by name."""

    learning_rate: float | None = None
    """Left out: the optimizer's own default."""

    clip_norm: float | None = None
    """Scale all gradients down together when their global norm exceeds this."""

    def __post_init__(self) -> None:
        for name, value in (
            ("--learning-rate", self.learning_rate),
            ("--clip-norm", self.clip_norm),
        ):
            if value is not None:
                ok = math.isfinite(value) and value > 0
                _require(ok, f"{name} is {value}; it must be a number above 0")


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How the work is laid out on the devices."""

    batch_size: int = 500
    """Rows per optimizer step, over all replicas."""

    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Of the layers' arithmetic; variables, row sums and the loss stay float32."""

    implementation: Literal["auto", "dense", "gather", "native"] = "auto"
    """Of the multi-hot product. `auto` measures them on the batch's shapes, once for each machine;
    `native` needs a C++ compiler and a CPU."""

    input: Literal["auto", "stream", "resident"] = "auto"
    """How batches reach the device. `resident`: the data set lies there, only row ids are sent;
    `stream`: through tf.data. `auto`: resident where it takes at most a quarter of the memory."""

    steps_per_dispatch: Literal["auto"] | int = "auto"
    """Optimizer steps in one call of the compiled function."""

    replicas: Literal["auto"] | int = "auto"
    """Devices to spread a batch over. `auto`: all GPUs, or one CPU device. On CPU, N logical
    devices."""

    seed: int = 0
    """Of the initial weights, the row order and dropout."""

    strict_xla: bool = False
    """A compilation of the training step after the first epoch is an error instead of a warning."""

    def __post_init__(self) -> None:
        _require_count("--batch-size", self.batch_size)
        _require_count("--steps-per-dispatch", self.steps_per_dispatch)
        _require_count("--replicas", self.replicas)
        _require(0 <= self.seed < 2**31, f"--seed is {self.seed}; it must be in [0, 2**31)")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What a run leaves behind."""

    run_dir: str | None = None
    """Folder for everything the run writes. Left out: runs/ and the time of day."""

    overwrite: bool = False
    """Replace a run that is already in the run folder."""

    resume: bool = False
    """Go on from the run folder's last checkpoint, with the same settings."""

    summary: bool = False
    """Print the network's layers and parameters before training."""

    timing: bool = False
    """Print where the wall time went, from the start of the process on."""

    tensorboard: Literal["on", "off"] = "on"
    """Write event files to the run folder's tensorboard/."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network on sets of token ids, evaluate it after each epoch, and save it."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    epochs: int = 2
    """Passes over the training rows."""

    def __post_init__(self) -> None:
        _require_count("--epochs", self.epochs)
        _require(
            not (self.output.resume and self.output.overwrite),
            "--resume and --overwrite exclude each other: one keeps the run, one replaces it",
        )
        _require(
            not self.output.resume or self.output.run_dir is not None,
            "--resume needs --run-dir: the folder of the run to go on with",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a saved model on a data set's held-out rows."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""

    data: DataConfig = field(default_factory=DataConfig)

    batch_size: int = 500
    """Rows per step."""

    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        _require_count("--batch-size", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Judge texts with a saved model that was trained on word ids."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""

    texts: tuple[str, ...] = ()
    """The texts. Left out: one a line from standard input."""

    word_index: str | None = None
    """JSON file of words and their ranks. None: the one in Keras's cache."""

    imdb: ImdbOptions = field(default_factory=ImdbOptions)


@dataclass(frozen=True, kw_only=True)
class DataInfoConfig:
    """Show what a data set holds: classes, ids, lengths, and its first row in words."""

    data: DataConfig = field(default_factory=DataConfig)

    num_bins: int = 20
    """Of the histogram of lengths."""

    def __post_init__(self) -> None:
        _require_count("--num-bins", self.num_bins)


@dataclass(frozen=True, kw_only=True)
class DataConvertConfig:
    """Write a data set in the harness's own format, which loads at once and needs no pickle."""

    out: str
    """Folder to make."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Say what this machine can do for a run, line by line, each with OK or the remedy."""


@dataclass(frozen=True, kw_only=True)
class SmokeConfig:
    """Try every implementation, precision and number of replicas for a few steps each on the CPU:
    the loss falls, nothing is compiled again, event files can be read, a saved model gives the same
    answers. Exit code 0 when all of it holds, else 1."""

    batch_size: int = 64
    """Rows per step."""

    implementations: tuple[Implementation, ...] = IMPLEMENTATIONS
    """Those to try."""

    precisions: tuple[Precision, ...] = PRECISIONS
    """Those to try."""

    replicas: tuple[int, ...] = (1, 2)
    """Numbers of replicas to try."""

    def __post_init__(self) -> None:
        _require_count("--batch-size", self.batch_size)
        for name in ("implementations", "precisions", "replicas"):
            _require(len(getattr(self, name)) > 0, f"--{name} is empty; name at least one")
        for replicas in self.replicas:
            _require_count("--replicas", replicas)
            _require_even_shares(self.batch_size, replicas)


def _require_even_shares(batch_size: int, replicas: int) -> None:
    below = batch_size // replicas * replicas
    _require(
        batch_size % replicas == 0,
        f"--batch-size is {batch_size}, which does not divide over {replicas} replicas; "
        f"set --batch-size to {_either(below, below + replicas)}, or --replicas to a divisor",
    )


def _either(lower: int, upper: int) -> str:
    return f"{lower} or {upper}" if lower else f"{upper}"


def check_batch(*, batch_size: int, rows: int, replicas: int) -> None:
    """Checks what can only be known once the data and the devices are.

    Raises:
        InputError: when a batch does not fit the data set or does not divide over the replicas.
    """
    _require(
        batch_size <= rows,
        f"--batch-size is {batch_size} but the data set has {rows} rows to train on; "
        f"set --batch-size to {rows} or less",
    )
    _require_even_shares(batch_size, replicas)
