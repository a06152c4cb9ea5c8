"""How the work is laid out on the devices."""

from dataclasses import dataclass
from typing import Literal, get_args

from harness.config.checks import require, require_count

Implementation = Literal["dense", "gather", "native"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


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
    """Optimizer steps in one call of the compiled function. `auto`: an estimate of what lasts
    0.2 s, within an epoch; with resident data halved where it takes 0.5 s, and by `train` raised
    where it takes less than 0.1 s."""

    replicas: Literal["auto"] | int = "auto"
    """Devices to spread a batch over. `auto`: all GPUs, or one CPU device. On CPU, N logical
    devices."""

    seed: int = 0
    """Of the initial weights, the row order and dropout."""

    strict_xla: bool = False
    """A compilation of the training step after the first epoch is an error instead of a warning."""

    def __post_init__(self) -> None:
        require_count("--batch-size", self.batch_size)
        require_count("--steps-per-dispatch", self.steps_per_dispatch)
        require_count("--replicas", self.replicas)
        require(0 <= self.seed < 2**31, f"--seed is {self.seed}; it must be in [0, 2**31)")


def require_even_shares(batch_size: int, replicas: int) -> None:
    """Raises InputError unless every replica gets as many rows of a batch."""
    below = batch_size // replicas * replicas
    require(
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
    require(
        batch_size <= rows,
        f"--batch-size is {batch_size} but the data set has {rows} rows to train on; "
        f"set --batch-size to {rows} or less",
    )
    require_even_shares(batch_size, replicas)
