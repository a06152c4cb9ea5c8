"""The plain records that a run produces, and the interface of those who receive them.

Everything here is host data: Python numbers and strings, never a tensor. Whoever holds a record can
read it without waiting for a device.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What a run trains and tests on."""

    name: str
    rows: int
    """Rows to train on."""
    test_rows: int
    num_tokens: int
    num_classes: int
    nnz: int
    """Ids in the training rows, after `unique()` where the run applies it."""
    unique: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was taken for a setting, and why."""

    name: str
    why: str


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
    replicas: int
    precision: Choice
    implementation: Choice
    steps_per_dispatch: Choice
    input: Choice
    compilation_cache: Choice
    """`on` or `off`."""
    cached_programs: int
    """XLA programs that earlier runs have compiled; those that fit are loaded."""
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
    """With a step that it is tried out in, for libraries make code of their own then."""
    step: int
    """Optimizer steps done when it happened."""


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """What the device reports of one dispatch, summed over its steps."""

    loss: float
    """Sum of the real rows' losses."""
    hits: float
    """Real rows whose class was the likeliest."""
    skipped_steps: int
    loss_scale: float | None


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
    accuracy: float
    loss_scale: float | None = None
    """After the window; None where the precision needs no scaling."""
    skipped_steps: int = 0
    """Steps of this window whose update was skipped because a gradient was not finite."""
    ended_at_seconds: float = math.nan
    """When it ended, by the loop's clock, which `time.perf_counter` is outside tests."""

    @property
    def steps_per_second(self) -> float:
        """Optimizer steps per second of the window's time."""
        return self.num_steps / self.seconds

    @property
    def examples_per_second(self) -> float:
        """Real rows, padding excluded, per second of the window's time."""
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
class Spread:
    """A figure that was sampled several times."""

    mean: float
    """Over the time, not the samples."""
    min: float
    max: float
    num_samples: int
    is_counter: bool = False
    """Whether it only rises, so that its last value says more than its mean."""

    @property
    def value(self) -> float:
        """The one number for a curve: the mean, or a counter's last."""
        return self.max if self.is_counter else self.mean


@dataclass(frozen=True, kw_only=True)
class WindowTelemetry:
    """What the machine did in a window, as far as it was sampled."""

    step: int
    """The window's: optimizer steps done at its end."""
    figures: Mapping[str, Spread]
    """By TensorBoard tag, such as `gpu/0/power_watts`; a tag without a sample is not in it."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One pass over the held-out rows."""

    step: int
    epoch: int
    examples: int
    seconds: float
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the finite elements of a tensor spread."""

    name: str
    edges: tuple[float, ...]
    """Of the bins, rising; one more than `counts`."""
    counts: tuple[int, ...]
    num_non_finite: int
    """Elements beside them."""


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
    """Of the last window whose loss was finite; None where there was none in this process."""
    saved_step: int | None
    """Steps of the last checkpoint; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """All that the loop saw, from the first window to the last."""

    windows: tuple[Window, ...]
    evaluations: tuple[Evaluation, ...]
    inspections: tuple[Inspection, ...]
    compilations: tuple[Compilation, ...]
    step: int
    """Optimizer steps done, those before a resume included."""
    interrupted: bool
    divergence: Divergence | None
    """Of the state at the end; None where all is finite."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to: the content of summary.json (its keys are stable)."""

    test_accuracy: float | None
    """None where the run was interrupted before its first evaluation."""
    test_loss: float | None
    examples_per_second: float | None
    """Training, compilation excluded, data wait included: the median over windows."""
    steps_per_second: float | None
    tokens_per_second: float | None
    mean_examples_per_second: float | None
    """All that was trained over `train_seconds`: slow windows, which do not move the medians above,
    count in full."""
    mean_steps_per_second: float | None
    mean_tokens_per_second: float | None
    data_wait_fraction: float | None
    train_seconds: float
    """Sum of the windows' times: evaluation, inspection and compilation excluded."""
    compile_seconds: float
    wall_seconds: float
    """Since the process started."""
    peak_rss_bytes: int
    epochs: float
    """Epochs trained in this process: a fraction where the run was interrupted."""
    steps: int
    """Optimizer steps done, those before a resume included."""
    batch_size: int
    steps_per_dispatch: int
    """The most in one dispatch: `auto` begins with an estimate, and adapts it to the machine."""
    precision: str
    implementation: str
    input: str
    replicas: int
    devices: tuple[str, ...]
    compilations: int
    """How often the training step was compiled: once for each capacity that occurred."""
    cached_programs: int
    """XLA programs of earlier runs at the start: `compile_seconds` is less where they fit."""
    skipped_steps: int
    non_finite_gradient_fraction: float | None
    """The most over inspections; None where there was none. So is the one below."""
    underflow_fraction: float | None
    interrupted: bool
    diverged: bool
    """Whether the loss was not finite at the end; there is no saved network then."""
    dataset: DatasetInfo
    versions: Mapping[str, str]
    host: Mapping[str, Any]
    joules_per_1000_examples: float | None = None
    """Energy of all GPUs while training, by their counters or samples of their power; None without
    GPUs, without telemetry, and where a GPU does not tell it."""
    gpu_hours: float | None = None
    """GPUs held, busy or not, times `wall_seconds`; None without GPUs."""


class Observer:
    """Receives a run's records, in order.

    Every method does nothing here: an observer overrides what it cares for. What one raises ends
    the run, so that no sink fails unseen. `close` is called once, also after a failure.
    """

    def on_start(self, run: RunStart) -> None:
        """Before anything is compiled."""

    def on_compilation(self, compilation: Compilation) -> None:
        """After an XLA program was compiled."""

    def on_telemetry(self, telemetry: WindowTelemetry) -> None:
        """Before the `on_window` of the same window, where a sample was taken in it."""

    def on_window(self, window: Window) -> None:
        """After each dispatch of training steps."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """After each pass over the held-out rows."""

    def on_inspection(self, inspection: Inspection) -> None:
        """After an epoch's evaluation, where its gradients were looked at."""

    def on_warning(self, message: str) -> None:
        """When the run goes on, but its user should know something."""

    def on_note(self, message: str) -> None:
        """When something is so by the machine's nature, and its user may wonder about it."""

    def on_end(self, summary: Summary) -> None:
        """After the last window and evaluation, also of an interrupted run."""

    def close(self) -> None:
        """Release files and threads."""
