"""The records that a run produces, and the interfaces of its observers and its telemetry.

Records hold Python numbers and strings, never tensors: reading one never waits for a device.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What a run trains and tests on."""

    name: str
    rows: int
    """Rows to train on."""
    test_rows: int
    validation_rows: int = 0
    """But for those that are the test rows, too."""
    num_tokens: int
    num_classes: int
    nnz: int
    """Ids in the training rows, after `unique()` where the run applies it."""
    unique: bool
    fingerprint: str
    """SHA-256 of the content, of training and test rows; `--resume` compares it."""
    weighted: bool = False
    """Whether ids have weights."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The value that a setting came to, and why."""

    name: str
    why: str

    @property
    def value(self) -> int | str:
        """The name, as a number where it is one."""
        return int(self.name) if self.name.isdecimal() else self.name


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One layer of the network."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Names of the layers that it takes its input from."""
    output_shape: tuple[int | None, ...]
    dtype: str
    """Of its output."""
    num_parameters: int


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """A run about to train: everything is resolved, nothing has been compiled."""

    run_dir: str
    config: Mapping[str, Any]
    dataset: DatasetInfo
    devices: tuple[str, ...]
    task: Choice
    """What the labels mean, such as `binary`."""
    metrics: tuple[str, ...]
    """Names of what is computed beside the loss."""
    choices: Mapping[str, Choice]
    """The settings that may be `auto`, by name, in the order in which they are shown."""
    batch_size: int
    learning_rate: float
    """The optimizer's own default where none was named."""
    num_parameters: int
    layers: tuple[LayerInfo, ...]
    """From the inputs to the head."""
    steps_per_epoch: int
    epochs: int
    start_step: int
    """Optimizer steps that were done before: above 0 in a resumed run."""
    resumed: Sequence[Mapping[str, Any]] = ()
    """Each time so far that the run was resumed: after which `step`, and what was `changed`."""
    versions: Mapping[str, str]
    host: Mapping[str, Any]

    @property
    def total_steps(self) -> int:
        """Optimizer steps from the first epoch to the last."""
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """One XLA program compiled, outside every window's time."""

    program: str
    capacity: int
    """Static length of the `values` buffer that the program was compiled for, per replica."""
    seconds: float
    """With a call that it is tried out in, for libraries make code of their own then."""
    step: int
    """Optimizer steps done when it happened."""


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """What the device reports of one dispatch."""

    loss: float
    """Sum of the real rows' losses."""
    metrics: Mapping[str, float]
    """Weighted means over the real rows, by name."""
    skipped_steps: int
    loss_scale: float | None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A quantity that was sampled several times."""

    mean: float
    """Over time, not over samples."""
    min: float
    max: float
    num_samples: int
    is_counter: bool = False
    """Whether it only rises, so that its last value says more than its mean."""

    @property
    def value(self) -> float:
        """The one number for a curve: the mean, or a counter's last value."""
        return self.max if self.is_counter else self.mean


@dataclass(frozen=True, kw_only=True)
class Window:
    """One dispatch of training steps."""

    step: int
    """Optimizer steps done at its end."""
    epoch: int
    """Counted from 0."""
    num_steps: int
    examples: int
    tokens: int
    seconds: float
    """From the end of the window before to the end of this one, compilation excluded."""
    data_wait_seconds: float
    loss: float
    """Weighted mean over the window's real rows."""
    metrics: Mapping[str, float]
    """Likewise, by name, such as `accuracy`."""
    loss_scale: float | None = None
    """After the window; None where the precision needs no scaling."""
    skipped_steps: int = 0
    """Steps of this window whose update was skipped because a gradient was not finite."""
    ended_at_seconds: float = math.nan
    """When it ended, by the loop's clock (`time.perf_counter` outside tests)."""
    telemetry: Mapping[str, Spread] = field(default_factory=dict)
    """What the machine did in the window, by TensorBoard tag, such as `gpu/0/power_watts`. A tag
    without a sample in the window is missing."""
    so_far: Mapping[str, float] = field(default_factory=dict)
    """Loss and metrics over the epoch, up to the window's end."""

    @property
    def steps_per_second(self) -> float:
        """Optimizer steps per second of the window's time."""
        return self.num_steps / self.seconds

    @property
    def examples_per_second(self) -> float:
        """Rows per second of the window's time."""
        return self.examples / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Ids per second of the window's time."""
        return self.tokens / self.seconds

    @property
    def step_time_ms(self) -> float:
        """Mean time of a step in the window, in milliseconds."""
        return 1e3 * self.seconds / self.num_steps

    @property
    def data_wait_fraction(self) -> float:
        """Share of the window's time in which the device had no batch to work on."""
        return self.data_wait_seconds / self.seconds


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One pass over the held-out rows."""

    step: int
    epoch: int
    examples: int
    seconds: float
    loss: float
    metrics: Mapping[str, float]
    """By name, such as `accuracy`."""
    checksum: int | None = None
    """Of the weights that were evaluated; None where nothing but training can change them."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """An epoch that has ended."""

    epoch: int
    step: int
    loss: float | None
    """Weighted mean over the rows that this process trained in the epoch; None without any."""
    metrics: Mapping[str, float]
    """Likewise, by name; empty without any."""
    evaluation: Evaluation | None
    """None where there are no held-out rows."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A histogram of the finite elements of a tensor."""

    name: str
    edges: tuple[float, ...]
    """Of the bins, rising; one more than `counts`."""
    counts: tuple[int, ...]
    num_non_finite: int
    """Elements outside all bins."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The gradients of one batch, and the weights that they are of, at the end of an epoch."""

    step: int
    epoch: int
    seconds: float
    non_finite_fraction: float
    """Share of the gradients' elements that are infinite or no number."""
    underflow_fraction: float | None
    """Of the elements that are not zero in float32, the share that is zero in the run's 16-bit
    precision; None in float32, or where it was not asked for."""
    weights: tuple[Distribution, ...] = ()
    gradients: tuple[Distribution, ...] = ()
    """Without the rows of a table that are all zero, as those of ids that are not in the batch."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The loss, or a weight, stopped being a finite number."""

    what: str
    """What was seen: `loss`, `validation loss` or `weights`."""
    value: float
    first_step: int
    """It happened in one of the steps from this one to `last_step`, counted from 1."""
    last_step: int
    loss_before: float | None
    """Of the last window with a finite loss; None where this process had none."""
    least_loss_before: float | None
    """The lowest finite loss of a window."""
    saved_step: int | None
    """Steps of the last checkpoint; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class MachineUse:
    """What a run took of its GPUs."""

    num_gpus: int = 0
    joules: float | None = None
    """Of all GPUs, within the windows; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class WindowStatistics:
    """Throughput over all windows of a run: compilation excluded, data wait included."""

    examples_per_second: float | None = None
    """Median over windows, as the two below: one slow window does not move it. None without
    windows, as all rates."""
    steps_per_second: float | None = None
    tokens_per_second: float | None = None
    mean_examples_per_second: float | None = None
    """All examples over `train_seconds`, as the two below: slow windows count in full."""
    mean_steps_per_second: float | None = None
    mean_tokens_per_second: float | None = None
    data_wait_fraction: float | None = None
    """Share of `train_seconds`."""
    train_seconds: float = 0.0
    """Sum of the windows' times: evaluation, inspection and compilation excluded."""
    examples: int = 0
    skipped_steps: int = 0
    most_steps: int = 0
    """In one window."""


@dataclass(frozen=True, kw_only=True)
class Summary(WindowStatistics):
    """The results of a run: with what `RunStart` says, the content of summary.json (its keys are
    stable)."""

    test_metrics: Mapping[str, float | None]
    """By name, of the model that is saved; in summary.json each is `test_NAME`. None, as the loss,
    where there are no test rows, or the run ended before they were evaluated."""
    test_loss: float | None
    test_figures: Mapping[str, float]
    """Measures such as `f1_macro`, by name; in summary.json each is `test_NAME`, unless a metric is
    called so. Empty where no test row was evaluated, and where labels are no classes."""
    validation_metrics: Mapping[str, float | None] = field(default_factory=dict)
    """The same of the validation rows; `validation_NAME` in summary.json."""
    validation_loss: float | None = None
    validation_figures: Mapping[str, float] = field(default_factory=dict)
    """Empty where there are test rows, whose figures these would be beside."""
    compile_seconds: float
    wall_seconds: float
    """Since the command began, in Python: neither an installation nor a notebook's age counts."""
    peak_rss_bytes: int
    epochs: float
    """Epochs trained in this process: a fraction where the run was interrupted."""
    steps: int
    """Optimizer steps done, those before a resume included."""
    choices: Mapping[str, int | str]
    """The values of `RunStart.choices`; in summary.json each stands by its own name.
    `steps_per_dispatch` is the most in one dispatch: `auto` adapts it to the machine."""
    compilations: int
    """How often the training step was compiled: for each length and capacity of a call."""
    non_finite_gradient_fraction: float | None
    """The most over inspections; None where there was none. So is the one below."""
    underflow_fraction: float | None
    interrupted: bool
    total_examples: int = 0
    """Since the first step, those before a resume included; so are the seconds of training."""
    total_train_seconds: float = 0.0
    resumes: int = 0
    diverged: bool
    """Whether the loss was not finite at the end; there is no saved network then."""
    joules_per_1000_examples: float | None = None
    """Energy of all GPUs while training, by their counters; None without GPUs, without telemetry,
    and where a GPU has no counter."""
    gpu_hours: float | None = None
    """GPUs held, busy or not, times `wall_seconds`; None without GPUs."""
    workers: int = 1
    """Processes that trained together."""
    scaling_efficiency: float | None = None
    """Of several workers: the time of a step without its all-reduce, measured on the chief at the
    start, as a share of that of a step in training. Else None."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something that the run's user should read."""

    kind: Literal["note", "warning"]
    """A note is about the machine's nature, a warning about something that went wrong."""
    text: str


@dataclass(frozen=True, kw_only=True)
class BatchesAwaited:
    """The loop is about to ask for the next dispatch's batches; the device idles meanwhile."""

    step: int
    """Optimizer steps done."""


@dataclass(frozen=True, kw_only=True)
class BatchesReady:
    """The batches have arrived; nothing has been compiled or run for them yet."""

    step: int
    """Optimizer steps done."""


@dataclass(frozen=True, kw_only=True)
class CheckpointDue:
    """A checkpoint is about to be written: no record up to its step may be lost."""

    step: int
    """Optimizer steps done."""


Record = (
    RunStart
    | BatchesAwaited
    | BatchesReady
    | Compilation
    | Window
    | Epoch
    | Inspection
    | CheckpointDue
    | Message
    | Summary
)
"""What a run tells its observers. `RunStart` comes first, before anything is compiled, and
`Summary` last, also from an interrupted run; a `Window` follows each dispatch of training steps, an
`Epoch` the last window of an epoch and its evaluation."""


class Observer:
    """Receives a run's records in order.

    An observer matches those that it needs on their type. An exception that it raises ends the run.
    `close` is called once, also after a failure.
    """

    def tell(self, record: Record) -> None:
        """Takes a record."""

    def close(self) -> None:
        """Releases files and threads."""
