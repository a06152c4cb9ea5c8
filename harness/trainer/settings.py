"""Every setting of a trainer and of a run: its default, its check and how `auto` is settled.

A new setting needs an edit of this file and of its test. The command line, its help, what a run
prints and what it records follow from `Settings`, `RunOptions` and `_CHOOSERS`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from harness.base.checks import require, require_count, require_known
from harness.base.decoding import decoded
from harness.base.errors import InputError, in_python
from harness.base.memory import free_bytes
from harness.program.checkpoint_schedule import Every
from harness.run.records import Choice
from kernels.multi_hot import Implementation, RowOptimizer

if TYPE_CHECKING:
    import keras

    from harness.data.examples import Examples
    from harness.data.ragged import RaggedSets
    from harness.program.devices import Devices
    from harness.program.table_choice import TablesAsked

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
TableOptimizer = Literal["auto", "dense", "adam", RowOptimizer]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LEAST_HZ, MOST_HZ = 0.01, 100.0
_RESIDENT_SHARE = 0.25
"""The largest share of a device's memory for the rows: the rest is for the model, its optimizer and
what XLA plans."""
_STREAM_SHARE = 0.5
"""The largest share of the host's free memory into which a stream copies the rows."""


_FROM_KERAS = {
    "validation_data": "the rows to evaluate are the argument validation of fit",
    **dict.fromkeys(
        ("x", "y", "sample_weight"), "give rows as Examples(inputs=..., labels=..., weights=...)"
    ),
    "batch_size": "it is an argument of harness.Trainer",
    "learning_rate": "it belongs to the optimizer, as in optimizer=keras.optimizers.Adam(0.01)",
    **dict.fromkeys(("loss", "metrics", "class_weight"), "it is an argument of harness.Task"),
    "verbose": "only fit prints",
}
"""Arguments of the methods of `keras.Model`, and what there is here instead."""
_Method = TypeVar("_Method", bound=Callable[..., Any])


def for_python(kind: type | None = None) -> Callable[[_Method], _Method]:
    """Decorates a method for Python programs: messages name arguments in place of flags, the method
    refuses keywords that it does not know, and its signature and docstring list the fields of the
    settings class `kind` in place of the last argument, `**`."""

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)
        where = method.__qualname__.removesuffix(".__init__")
        if kind is not None:
            own = list(signature.parameters.values())[:-1]
            own.extend(inspect.signature(kind, eval_str=True).parameters.values())
            signature = signature.replace(parameters=own)
            with contextlib.suppress(OSError):  # there may be no source
                listed = inspect.getsource(kind).partition("    def ")[0]
                method.__doc__ = f"{inspect.getdoc(method)}\n\n{listed}"

        @functools.wraps(method)
        def called(*positional: Any, **given: Any) -> Any:
            with in_python():
                for name in sorted(given.keys() - signature.parameters):
                    known = ", ".join(sorted(signature.parameters.keys() - {"self"}))
                    there = _FROM_KERAS.get(name, f"there are {known}")
                    raise InputError(f"{where} has no setting {name}; {there}")
                return method(*positional, **given)

        called.__dict__["__signature__"] = signature
        return cast(_Method, called)

    return decorate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the work is laid out on the devices."""

    batch_size: int = 500
    """Rows per optimizer step, over all replicas."""

    precision: Literal["auto", Precision] = "auto"
    """Number format of the layers' arithmetic; variables, row sums and the loss stay float32.
    `auto`: 16 bits on GPUs that multiply them faster, if each gets at least 2,048 rows of a batch;
    else float32."""

    implementation: Literal["auto", Implementation] = "auto"
    """How the multi-hot product is computed. `auto` measures the implementations on the batch's
    shapes, once for each machine, except `dense` on a CPU where its matrix would be large and
    nearly empty. `native` needs a C++ compiler, and on a GPU NVRTC, which TensorFlow's CUDA
    packages include."""

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

    steps_per_dispatch: Literal["auto"] | int = "auto"
    """Optimizer steps from one host sync to the next, at most an epoch. `auto`: one call of a
    compiled loop that lasts less than a second on any device; with resident data, as many calls as
    take 0.2 s, as measured."""

    replicas: Literal["auto"] | int = "auto"
    """Number of equal shares of a batch, each for a GPU of its own; on a CPU, one program trains
    the whole batch. `auto`: one, or as many GPUs as a large batch pays for."""

    all_reduce: Literal["auto", "nccl", "hierarchical", "ring"] = "auto"
    """How gradients are summed over devices and workers. `nccl`: by NCCL, for GPUs; `ring`: by
    TensorFlow's ring over gRPC, between workers; `hierarchical`: over the GPUs of each worker, then
    between workers, then back. `auto`: nccl on GPUs, ring on CPUs."""

    seed: int = 0
    """Seed of the initial weights, the row order and dropout."""

    deterministic: bool = False
    """Give the same bits in every run on a GPU, too: sums in a fixed order, no TF32. A CPU always
    does."""

    def __post_init__(self) -> None:
        require_known(self)
        require(self.batch_size != "auto", "--batch-size is 'auto'; give a whole number")
        require_count("--batch-size", self.batch_size)
        require_count("--steps-per-dispatch", self.steps_per_dispatch)
        require_count("--replicas", self.replicas)
        require(0 <= self.seed < 2**31, f"--seed is {self.seed}; it must be in [0, 2**31)")

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Settings:
        """Returns the settings that a run's config.json holds.

        Raises:
            InputError: when one has a value of a wrong type or out of range.
        """
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in recorded.items() if name in known}
        if found.get("precision") in ("float64", "float16", "bfloat16"):
            found["precision"] = "auto"  # the model or Keras's policy says it again
        return cast(Settings, decoded(cls, found, where="the run's config.json"))

    def with_chosen(self, name: str, value: str) -> Settings:
        """Returns a copy in which the setting `name` has `value`, given as text, for `auto`."""
        chosen: dict[str, Any] = {name: int(value) if value.isdecimal() else value}
        return replace(self, **chosen)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The options of what a run records besides its metrics."""

    tensorboard: str = "on"
    """Folder of the event files. `on`: the run folder's tensorboard/; `off`: no event files;
    anything else: the folder of that name. --overwrite replaces event files there, --resume
    continues them; otherwise the run refuses a folder that holds any."""

    histograms: int = 0
    """Write histograms of the weights and of one batch's gradients to TensorBoard every so many
    epochs; 0: never. Windows exclude the time this takes."""

    precision_watch: Literal["auto"] | int = "auto"
    """Measure every so many epochs which share of one batch's gradients is not finite and, in 16
    bits, which share underflowed; 0: never. Windows exclude the time this takes. `auto`: 1 in 16
    bits, 0 in float32."""

    profile_steps: str | None = None
    """Profile steps A:B of the run, counted from 0, without B, in whole dispatches. TensorBoard
    shows the profile; the printed breakdown needs the extra `profile`."""

    checkpoint_every: int | str = "epoch"
    """Interval between checkpoints: every `epoch`, a number of steps, as in 500, or a time, as in
    30s, 10m or 1h. One is also saved at the end, and when the run is stopped."""

    keep: int = 2
    """How many checkpoints to keep. With validation rows, the run also keeps the one with the
    lowest validation loss."""

    def __post_init__(self) -> None:
        Every.of(self.checkpoint_every)
        require_count("--keep", self.keep)
        require(self.tensorboard != "", "--tensorboard is empty; give on, off, or a folder")
        require_count("--histograms", self.histograms, least=0)
        require(
            self.histograms == 0 or self.tensorboard != "off",
            f"--histograms is {self.histograms}, but --tensorboard is off, so nothing would show "
            "them; leave out one of the two",
        )
        require_count("--precision-watch", self.precision_watch, least=0)
        if self.profile_steps is not None:
            step_range(self.profile_steps)


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """The option for sampling the machine during training."""

    telemetry_hz: float = 5.0
    """How often a second to sample the GPUs (through NVML) and the host, in the background. 0
    samples nothing."""

    def __post_init__(self) -> None:
        hz = self.telemetry_hz
        require(
            hz == 0 or LEAST_HZ <= hz <= MOST_HZ,
            f"--telemetry-hz is {hz:g}; choose 0 for none, or from {LEAST_HZ:g} to {MOST_HZ:g}",
        )


@dataclass(frozen=True, kw_only=True)
class OnNan:
    """The option for a loss that is not finite."""

    on_nan: Literal["stop", "continue"] = "stop"
    """What to do when the loss is not finite. `stop`: end the run with the likely cause;
    `continue`: warn. Either way, a state with such a loss is not saved, and a run that ends in one
    leaves no model.keras and exit code 1."""

    def __post_init__(self) -> None:
        require_known(self)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Recorded, Telemetry, OnNan):
    """The options of what a fit watches, and what it leaves in its folder."""

    def __post_init__(self) -> None:
        Recorded.__post_init__(self)
        Telemetry.__post_init__(self)
        OnNan.__post_init__(self)


def step_range(text: str) -> tuple[int, int]:
    """Returns (A, B) for `A:B`, the value of --profile-steps, which leaves out B.

    Raises:
        InputError: unless both are whole numbers and A is below B.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None:
        raise InputError(
            f"--profile-steps is '{text}'; give two whole numbers, as in 100:120 for the 20 steps "
            "after 100"
        )
    first, last = int(found[1]), int(found[2])
    require(
        first < last,
        f"--profile-steps is {text}, which holds no step; the first must be below the last",
    )
    return first, last


@dataclass(frozen=True, kw_only=True)
class Known:
    """The facts that a choice may depend on."""

    settings: Settings
    devices: Devices
    train: Examples
    resident_bytes: int
    """Memory that all rows take on one device."""
    model: keras.Model | None = None
    """None while the precision is chosen, since a function makes its layers in it."""
    tables: TablesAsked | None = None
    """None while the precision is chosen."""
    left_bytes: int = 0
    """Memory of a device that the model and all that goes with it leave."""
    before: Settings | None = None
    """Settings of the run that is resumed; only those to be chosen anew are `auto`."""
    chosen: dict[str, Choice]
    """The choices made so far, by setting."""


def settle(name: str, known: Known) -> Choice:
    """Returns the choice for a setting: as asked for, else as in the run that is resumed, else new.

    Raises:
        InputError: when what was asked for cannot be had.
    """
    asked = getattr(known.settings, name)
    if asked != "auto":
        choice = Choice(name=str(asked), why="asked for")
    elif known.before is not None and getattr(known.before, name) != "auto":  # else chosen anew
        choice = Choice(name=str(getattr(known.before, name)), why="as in the run resumed")
    else:
        choice = _CHOOSERS[name](known)
    return _CHECKS[name](choice, known) if name in _CHECKS else choice


def settings_before(recorded: Mapping[str, Any], device_type: str) -> Settings:
    """Returns the settings of a run that is resumed. On another kind of device, those that only
    change its speed are `auto`, so that they are chosen anew.

    Args:
        recorded: the settings by name, and the `device_type` that they were settled for, "" if
            unknown.
        device_type: the kind of device now.

    Raises:
        InputError: when one has a value of a wrong type or out of range.
    """
    before = Settings.of(recorded)
    if recorded.get("device_type", "") in ("", device_type):
        return before
    return replace(before, implementation="auto", steps_per_dispatch="auto")


def _precision(known: Known) -> Choice:
    import keras

    from harness.model.precision import choose_precision

    if (own := keras.config.dtype_policy().name) != "float32":
        return Choice(name=own, why="as keras.config.set_dtype_policy says")
    return choose_precision(
        known.devices.device_type,
        known.devices.compute_capability,
        rows=known.settings.batch_size // known.devices.num_shares,
    )


def _implementation(known: Known) -> Choice:
    """Chooses the fastest for the shapes of one device's batch and the largest layer."""
    from harness.feed.capacity import capacities_for_any_order
    from kernels.multi_hot import choose_implementation

    layers = _multi_hot_layers(known)
    if not layers or not known.train.ragged:
        return Choice(name="gather", why="the model has no MultiHotDense that asks for one")
    widest = max(layers, key=lambda layer: layer.num_tokens * layer.units)
    longest = max(known.train.ragged.values(), key=lambda sets: sets.nnz)
    rows = known.settings.batch_size // known.devices.num_shares
    choice = choose_implementation(
        num_rows=rows,
        num_values=capacities_for_any_order(longest.lengths[None], rows=rows).typical[0],
        num_tokens=widest.num_tokens,
        units=widest.units,
        dtype=widest.compute_dtype,
        unique=longest.is_unique,
        weighted=longest.weights is not None,
        device=known.devices.names[0].removeprefix("/"),
        deterministic=known.settings.deterministic,
    )
    return Choice(name=choice.name, why=choice.why)


def _available(choice: Choice, known: Known) -> Choice:
    """Returns the choice if it can run here; chooses anew if `auto` took it on another machine.

    Raises:
        InputError: when an implementation that was asked for cannot run here.
    """
    from kernels.multi_hot import why_unavailable

    names = {choice.name}
    names |= {layer.implementation for layer in _multi_hot_layers(known, all_of_them=True)} - {None}
    for name in sorted(names):
        reason = why_unavailable(name, known.devices.device_type)
        if reason is None:
            continue
        if known.settings.implementation == "auto" and name == choice.name:
            return _implementation(known)
        raise InputError(
            f"--implementation {name} cannot be had on {', '.join(known.devices.names)}: {reason}; "
            "set --implementation auto"
        )
    return choice


def _multi_hot_layers(known: Known, *, all_of_them: bool = False) -> list[Any]:
    """Returns the MultiHotDense layers that leave their implementation to the trainer, or all."""
    from harness.model.network import multi_hot_layers

    assert known.model is not None
    layers = multi_hot_layers(known.model)
    return [layer for layer in layers if all_of_them or layer.implementation is None]


def _table_optimizer(known: Known) -> Choice:
    from harness.program.table_choice import choose_table_optimizer

    implementation = cast(Implementation, known.chosen["implementation"].name)
    return choose_table_optimizer(known.tables, implementation)


def _input(known: Known) -> Choice:
    """Chooses whether the rows lie on the devices, in the host's memory, or in their files."""
    share = known.resident_bytes / known.devices.memory_bytes
    shown = f"the data set takes {known.resident_bytes / 1e6:,.1f} MB, {share:.1%} of a device's"
    if share <= _RESIDENT_SHARE and known.resident_bytes <= known.left_bytes:
        return Choice(name="resident", why=f"{shown} memory")
    limit = "more than the model leaves"
    if share > _RESIDENT_SHARE:
        limit = f"more than {_RESIDENT_SHARE:.0%}"
    if known.resident_bytes > _STREAM_SHARE * (free := free_bytes()):
        limit += f", and more than {_STREAM_SHARE:.0%} of the {free / 1e6:,.1f} MB free on the host"
        return Choice(name="mapped", why=f"{shown} memory, {limit}")
    return Choice(name="stream", why=f"{shown} memory, {limit}")


def _steps_per_dispatch(known: Known) -> Choice:
    from harness.feed.cadence import AIM_SECONDS, steps_per_call
    from harness.model.work import work_of_step

    rows = known.settings.batch_size // known.devices.num_shares
    ids = rows * known.train.nnz / known.train.num_rows
    sets = known.train.ragged.values()
    whole = max(1, known.train.num_rows // known.settings.batch_size)
    assert known.model is not None
    implementation, device_type = known.chosen["implementation"].name, known.devices.device_type
    bytes_moved, flops = work_of_step(
        known.model, rows=rows, ids=ids, implementation=implementation
    )
    sorts = implementation == "native" and device_type == "GPU"
    steps = steps_per_call(
        bytes_moved=bytes_moved,
        flops=flops,
        prepared_bytes=rows * sum(_prepared_bytes(s, sorts) for s in sets) / known.train.num_rows,
        device_type=device_type,
        steps_per_epoch=whole,
    )
    steps += steps == whole  # an epoch's last, smaller batch goes with all others
    why = f"in one call; a dispatch makes as many calls as fit into {AIM_SECONDS} s, as measured"
    return Choice(name=str(steps), why=why)


def _prepared_bytes(sets: RaggedSets, sorts: bool) -> int:
    """Returns the bytes of the ids, their rows, their weights if any, and, if `sorts`, of what
    sorting them takes."""
    return sets.nnz * ((8 if sets.weights is None else 12) + 20 * sorts)


def _within_epoch(choice: Choice, known: Known) -> Choice:
    """Limits the choice to an epoch, with which a dispatch ends."""
    steps = -(-known.train.num_rows // known.settings.batch_size)
    if int(choice.name) < steps:
        return choice
    asked = f"; {choice.name} asked for" if choice.why == "asked for" else ""
    return Choice(name=str(steps), why=f"a whole epoch{asked}")


_CHOOSERS: dict[str, Callable[[Known], Choice]] = {
    "precision": _precision,
    "implementation": _implementation,
    "table_optimizer": _table_optimizer,
    "input": _input,
    "steps_per_dispatch": _steps_per_dispatch,
}
"""The functions that choose, by setting, in the order in which these are settled. All but the
precision know the model. The replicas are settled before, with the devices."""
_CHECKS: dict[str, Callable[[Choice, Known], Choice]] = {
    "implementation": _available,
    "steps_per_dispatch": _within_epoch,
}
"""The checks of a choice, by setting; they apply also to what was asked for."""
WITH_MODEL = tuple(name for name in _CHOOSERS if name != "precision")
