"""The settings of a trainer and of a run: defaults, help texts and checks. The command line, TOML
files, config.json and the keywords of `Trainer` follow from them; `choices.py` settles `auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from harness.base.checks import Checked, Whole, require
from harness.base.decoding import decoded
from harness.model.options import TableOptimizer
from harness.run.checkpoint_schedule import CheckpointSchedule
from kernels.multi_hot import Implementation

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_LEAST_HZ, _MOST_HZ = 0.01, 100.0
Resume = bool | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """How the work is laid out on the devices."""

    batch_size: Annotated[int, Whole()] = 500
    """Rows per optimizer step, over all replicas."""
    precision: Literal["auto", Precision] = "auto"
    """Number format of the layers' arithmetic; variables, row sums and the loss stay float32.
    `auto`: 16 bits on GPUs that multiply them faster, if each gets at least 2,048 rows of a batch;
    else float32."""
    implementation: Literal["auto", Implementation] = "auto"
    """How the multi-hot product is computed. `auto` measures the implementations on the batch's
    shapes, once for each machine, except `dense` on a CPU where its matrix would be large and
    nearly empty, or where a batch has no more ids than the table has rows and only the rows that
    it touches need an update. `native` needs a C++ compiler, and on a GPU NVRTC, which TensorFlow's
    CUDA packages include."""
    table_optimizer: TableOptimizer = "auto"
    """What updates the multi-hot layer's table. `dense`: the optimizer of all weights, on all rows;
    `adam`: the same, but it must be Adam. The others change only the rows of a batch's ids: `sgd`;
    `adagrad`, with one sum for each row; `lazy_adam`, which is not Adam, because it leaves out what
    Adam does to the other rows; `exact_adam`, whose rows make up for that when their id comes
    again, so that the result is Adam's. `auto`: the optimizer of all weights, on the touched rows
    alone if the table is so large that this is faster and the result is the same."""
    input: Literal["auto", "stream", "resident", "mapped"] = "auto"
    """How batches reach the device. `resident`: the data set lies there, and only row ids are sent;
    `stream`: through tf.data, from a copy in the host's memory; `mapped`: through tf.data, which
    reads rows from the files of the data set when they are needed, in an order of blocks: for data
    larger than memory. `auto`: resident if the data set takes at most a quarter of the device's
    memory, and the model leaves as much; else stream if half of the host's free memory holds it;
    else mapped."""
    steps_per_dispatch: Annotated[Literal["auto"] | int, Whole()] = "auto"
    """Optimizer steps from one host sync to the next, at most an epoch; more than one are followed
    by an epoch's last, smaller batch. `auto`: one call of a compiled loop that lasts less than a
    second on any device; with resident data, as many calls as take 0.2 s, as measured; on a GPU
    several epochs if nothing needs the state between them."""
    replicas: Annotated[Literal["auto"] | int, Whole()] = "auto"
    """Number of equal shares of a batch, each for a GPU of its own; on a CPU, one program trains
    the whole batch. `auto`: one, or as many GPUs as a large batch pays for."""
    all_reduce: Literal["auto", "nccl", "ring"] = "auto"
    """How gradients are summed over devices and workers. `nccl`: by NCCL, for GPUs; `ring`: by
    TensorFlow's ring over gRPC, between workers. `auto`: nccl on GPUs, ring on CPUs."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of the initial weights, the row order and dropout."""
    deterministic: bool = False
    """Give the same bits in every run on a GPU, too: sums in a fixed order, no TF32. A CPU always
    does."""

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Settings:
        """Returns the settings that a run's config.json holds, each of them checked."""
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in recorded.items() if name in known}
        if found.get("precision") in ("float64", "float16", "bfloat16"):
            found["precision"] = "auto"  # the model or Keras's policy says it again
        return cast(Settings, decoded(cls, found, where="the run's config.json"))

    def steps_per_epoch(self, num_rows: int) -> int:
        """Returns the number of an epoch's batches, of which the last may be smaller."""
        return -(-num_rows // self.batch_size)


# The fields of `Settings` that may differ when a run is resumed: the losses stay the same, but for
# their last bits.
DECIDE_NO_LOSS = (
    *("implementation", "input", "steps_per_dispatch", "replicas", "deterministic", "all_reduce"),
)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Checked):
    """Where a run writes, what it records and watches. None of it decides a loss."""

    run_dir: str | Path | None = None
    """Folder for records, checkpoints, TensorBoard and the model; `auto`: a new one in runs/. None:
    nothing is written."""
    overwrite: bool = False
    """Replace the run that is already in the run folder."""
    resume: Resume = False
    """Continue from the newest intact checkpoint in the run folder; `auto` does so if there is one,
    and starts a run otherwise."""
    summary: bool = False
    """Print the network's layers and parameters before training."""
    tensorboard: str = "on"
    """Folder of the event files. `on`: the run folder; `off`: no event files; anything
    else: the folder of that name. --overwrite replaces event files there, --resume
    continues them; otherwise the run refuses a folder that holds any."""
    histograms: Annotated[int, Whole(0)] = 0
    """Write histograms of the weights and of one batch's gradients to TensorBoard every so many
    epochs; 0: never. Windows exclude the time this takes."""
    precision_watch: Annotated[Literal["auto"] | int, Whole(0)] = "auto"
    """Measure every so many epochs which share of one batch's gradients is not finite; 0: never.
    Windows exclude the time this takes. `auto`: 1 in 16 bits, 0 in float32."""
    telemetry_hz: float = 5.0
    """How often a second to sample the GPUs (through NVML) and the host, in the background. 0
    samples nothing."""
    profile_steps: Annotated[tuple[int, int] | None, Whole(0)] = None
    """Profile the run from one step to another, as in 200 260, for TensorBoard's Profile page: 60
    steps or more in whole dispatches, from the first that begins at step 200 or later, but not the
    run's first, which compiles. The windows beside it include the profiler's start and end."""
    on_nan: Literal["stop", "continue"] = "stop"
    """What to do when the loss is not finite. `stop`: end the run with the likely cause;
    `continue`: warn. Either way, a state with such a loss is not saved, and a run that ends in one
    leaves no model.keras and exit code 1."""
    checkpoint_every: int | str = "epoch"
    """Interval between checkpoints: every `epoch`, a number of steps, as in 500, or a time, as in
    30s, 10m or 1h. One is also saved at the end, and when the run is stopped."""
    keep: Annotated[int, Whole()] = 2
    """How many checkpoints to keep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folder("--run-dir", self.run_dir, resume=self.resume, overwrite=self.overwrite)
        require(self.tensorboard != "", "--tensorboard is empty; give on, off, or a folder")
        require(
            self.histograms == 0 or self.tensorboard != "off",
            f"--histograms is {self.histograms}, but --tensorboard is off, so nothing would show "
            "them; leave out one of the two",
        )
        steps = self.profile_steps
        require(
            steps is None or (len(steps) == 2 and steps[0] < steps[1]),
            f"--profile-steps is {steps}; give two steps, the first below the second",
        )
        hz = self.telemetry_hz
        require(
            hz == 0 or _LEAST_HZ <= hz <= _MOST_HZ,
            f"--telemetry-hz is {hz:g}; choose 0 for none, or from {_LEAST_HZ:g} to {_MOST_HZ:g}",
        )
        CheckpointSchedule.of(self.checkpoint_every)


def check_folder(flag: str, folder: str | Path | None, *, resume: Resume, overwrite: bool) -> None:
    """Checks that --resume and --overwrite fit together and to the folder of `flag`."""
    require(
        not (resume and overwrite),
        "--resume and --overwrite exclude each other: one keeps what is there, one replaces it",
    )
    require(not resume or folder is not None, f"--resume needs {flag}: the folder to go on with")
