"""The records that a run produces, and the interface of its observers. Records hold Python numbers
and strings, never tensors: reading one never waits for a device."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    name: str
    rows: int  # rows to train on
    test_rows: int
    validation_rows: int = 0  # validation rows; 0 if they are the test rows
    num_tokens: int
    num_classes: int
    nnz: int  # ids in the training rows, after `unique()` where the run applies it
    unique: bool
    fingerprint: str  # SHA-256 over the content of all rows; `--resume` compares it
    weighted: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str
    why: str

    @property
    def value(self) -> int | str:
        """`name`, as an int if it is a number."""
        return int(self.name) if self.name.isdecimal() else self.name


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """A run about to train: everything is resolved, nothing has been compiled."""

    run_dir: str
    config: Mapping[str, Any]
    dataset: DatasetInfo
    devices: tuple[str, ...]
    strategy: str  # The class of the tf.distribute strategy
    task: Choice  # the meaning of the labels, such as `binary`
    metrics: tuple[str, ...]
    choices: Mapping[str, Choice]  # of the settings that may be `auto`, by name, in display order
    batch_size: int
    learning_rate: float  # the learning rate; the optimizer's own default if none was given
    num_parameters: int
    graph: bytes  # the layers, as a GraphDef for TensorBoard
    steps_per_epoch: int
    epochs: int
    start_step: int  # optimizer steps done before; above 0 in a resumed run
    resumed: Sequence[Mapping[str, Any]] = ()  # the `step` and what was `changed`, of each
    versions: Mapping[str, str]
    host: Mapping[str, Any]
    workers: int = 1  # the number of processes that train together

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """The compilation of one XLA program; no window's time includes it."""

    program: str
    capacity: int  # static length of the `values` buffer that it is compiled for, per replica
    seconds: float  # with a trial call, in which libraries generate code of their own
    step: int


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """The results that the device reports for one dispatch."""

    loss: float  # sum of the real rows' losses
    metrics: Mapping[str, float]  # weighted means over the real rows, by name
    skipped_steps: int
    loss_scale: float | None


@dataclass(frozen=True, kw_only=True)
class Spread:
    mean: float
    min: float
    max: float
    num_samples: int

    def joined(self, other: "Spread") -> "Spread":
        """Returns the spread of the samples of both."""
        num_samples = self.num_samples + other.num_samples
        total = self.mean * self.num_samples + other.mean * other.num_samples
        least, most = min(self.min, other.min), max(self.max, other.max)
        return Spread(mean=total / num_samples, min=least, max=most, num_samples=num_samples)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Training counted over some time, and its rates: sums over `seconds`, compilation excluded."""

    step: int  # optimizer steps done at its end
    epoch: int  # the number of the epoch at its end, counted from 0
    batch_size: int  # rows of a whole batch
    examples: int
    tokens: int
    seconds: float
    data_wait_seconds: float

    @property
    def examples_per_second(self) -> float:
        return self.examples / self.seconds

    @property
    def steps_per_second(self) -> float:
        """Steps of `batch_size` rows. A smaller batch counts by its rows, so that steps/s times
        the batch size are the examples/s."""
        return self.examples / self.batch_size / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def step_time_ms(self) -> float:
        """Milliseconds of a step of `batch_size` rows."""
        return 1e3 / self.steps_per_second

    @property
    def data_wait_fraction(self) -> float:
        return self.data_wait_seconds / self.seconds


@dataclass(frozen=True, kw_only=True)
class Stretch(Rates):
    """Consecutive windows that together lasted long enough to time them (`run/stretches.py`): what
    medians, percentiles and curves of throughput are taken from."""

    learning_rate: float | None = None  # at its end; None if nobody asked


@dataclass(frozen=True, kw_only=True)
class Window(Rates):
    """The training steps of one dispatch, or of one of its epochs, which share the dispatch's
    seconds by their steps. It lasts from the end of the previous window to its own end."""

    num_steps: int  # optimizer steps
    loss: float  # the weighted mean over the window's real rows
    metrics: Mapping[str, float]  # weighted means over real rows, such as `accuracy`
    loss_scale: float | None = None  # after the window; None if the precision needs none
    skipped_steps: int = 0  # steps without an update, as a gradient was not finite
    ended_at_seconds: float = math.nan  # by the loop's clock (`time.perf_counter`)
    telemetry: Mapping[str, Spread] = field(default_factory=dict)  # by name, as in `host/rss_bytes`
    so_far: Mapping[str, float] = field(default_factory=dict)  # loss and metrics over the epoch


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One pass over the held-out rows."""

    step: int
    epoch: int
    examples: int
    seconds: float
    loss: float
    metrics: Mapping[str, float]
    f1: Mapping[str, float] = field(default_factory=dict)  # of several labels, by name
    checksum: int | None = None  # of the evaluated weights; None if only training can change them

    @property
    def values(self) -> dict[str, float]:
        return {"loss": self.loss, **self.f1, **self.metrics}


@dataclass(frozen=True, kw_only=True)
class Epoch:
    epoch: int
    step: int
    loss: float | None  # weighted mean over the rows that this process trained; None without any
    metrics: Mapping[str, float]  # means over the same rows, by name; empty without any
    evaluation: Evaluation | None  # None without held-out rows, or if `validation_freq` skips it


@dataclass(frozen=True, kw_only=True)
class Distribution:
    name: str
    edges: tuple[float, ...]  # the rising edges of the bins, one more than `counts`
    counts: tuple[int, ...]
    num_non_finite: int  # the number of elements outside all bins


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A look at the gradients of one batch and at the weights, at the end of an epoch."""

    step: int
    epoch: int
    seconds: float
    gradient_norm: float  # the global norm of the batch's gradients
    non_finite_fraction: float  # the share of the gradients' elements that are infinite or NaN
    weights: tuple[Distribution, ...] = ()
    gradients: tuple[Distribution, ...] = ()  # without all-zero rows of a table


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The loss, or a weight, stopped being a finite number."""

    what: str  # the quantity that was not finite: `loss`, `validation loss` or `weights`
    value: float
    first_step: int  # first step that may have caused it, counted from 1; the last is `last_step`
    last_step: int
    loss_before: float | None  # of the last window in which it was finite
    least_loss_before: float | None  # the lowest finite loss of a window; None without any
    saved_step: int | None  # optimizer steps done at the last checkpoint; None without any


@dataclass(frozen=True, kw_only=True)
class WindowStatistics:
    """Throughput over all windows of a run: compilation excluded, data wait included. Rates are
    medians over stretches, means totals over `train_seconds`; without windows all are None."""

    examples_per_second: float | None = None
    steps_per_second: float | None = None
    tokens_per_second: float | None = None
    mean_examples_per_second: float | None = None
    mean_steps_per_second: float | None = None
    mean_tokens_per_second: float | None = None
    data_wait_fraction: float | None = None  # share of `train_seconds`
    train_seconds: float = 0.0  # evaluation, inspection and compilation excluded
    examples: int = 0
    skipped_steps: int = 0
    most_steps: int = 0  # the most optimizer steps in one window


@dataclass(frozen=True, kw_only=True)
class Summary(WindowStatistics):
    """The results of a run, which with facts of `RunStart` make up summary.json."""

    # Loss, metrics and measures such as `f1_macro` of the saved model on the test rows, by name.
    test: Mapping[str, float | None]
    # The same on the validation rows; measures only without test rows, which have them then.
    validation: Mapping[str, float | None] = field(default_factory=dict)
    compile_seconds: float
    wall_seconds: float  # time since Python began the command, or the call of `fit`
    peak_rss_bytes: int
    epochs: float  # epochs trained in this process; a fraction if the run was interrupted
    steps: int  # optimizer steps done, those before a resume included
    # The values of `RunStart.choices`, with the most `steps_per_dispatch` that `auto` came to.
    choices: Mapping[str, int | str]
    compilations: int  # of the training step: one for each length and capacity of a call
    non_finite_gradient_fraction: float | None  # the highest of all inspections; None without any
    interrupted: bool
    total_examples: int = 0  # examples since the first step, those before a resume included
    total_train_seconds: float = 0.0  # since the first step, before a resume included
    resumes: int = 0
    diverged: bool  # whether the loss was not finite at the end, in which case no model is saved
    joules_per_1000_examples: float | None = None  # of all GPUs while training
    gpu_hours: float | None = None  # GPUs held, busy or not, times `wall_seconds`
    # Of each GPU while training, what it supports: `utilization_percent` and `power_watts` (means)
    # and `memory_peak_bytes`.
    gpus: Sequence[Mapping[str, float]] = ()
    workers: int = 1  # the number of processes that trained together


@dataclass(frozen=True, kw_only=True)
class Message:
    kind: Literal["note", "warning"]  # about the machine's nature, or what went wrong
    text: str


@dataclass(frozen=True, kw_only=True)
class _Moment:
    step: int  # optimizer steps done


class BatchesAwaited(_Moment):
    """The loop is about to ask for the next dispatch's batches; the device idles meanwhile."""


class BatchesReady(_Moment):
    """The batches have arrived; nothing has been compiled or run for them yet."""


class CheckpointDue(_Moment):
    """A checkpoint is about to be written: no record up to its step may be lost."""


# A record that a run tells its observers. `RunStart` comes first, before anything is compiled, and
# `Summary` last, also from an interrupted run. A `Window` follows each dispatch of training steps,
# after the `Stretch` that it completes, an `Epoch` an epoch's last window and its evaluation.
Record = RunStart | _Moment | Compilation | Rates | Epoch | Inspection | Message | Summary


class Observer:
    """Receives a run's records in order. An exception that it raises ends the run."""

    def tell(self, record: Record) -> None:
        """Takes a record."""

    def close(self) -> None:
        """Releases files and threads."""
