"""What each setting that is `auto` comes to, and why."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import keras
from rich.console import Console

from harness.base.errors import InputError
from harness.base.memory import free_bytes
from harness.data.examples import Examples
from harness.feed.capacity import capacities_for_any_order
from harness.model.layers import MultiHotDense
from harness.model.network import multi_hot_layers
from harness.program.devices import Devices
from harness.run.records import Choice
from harness.trainer.cadence import AIM_SECONDS, steps_per_call
from harness.trainer.settings import Settings
from harness.trainer.table_choice import TablesAsked, choose_table_optimizer
from kernels.multi_hot import Implementation, choose_implementation, why_unavailable

_RESIDENT_SHARE = 0.25  # of a device's memory; the rest is for the model and XLA's plan
_STREAM_SHARE = 0.5  # of the host's free memory, into which a stream copies the rows

_BFLOAT16_CAPABILITY = (8, 0)  # Ampere (CUDA C++ Programming Guide, WMMA types)
_FLOAT16_CAPABILITY = (7, 0)  # First compute capability whose tensor cores take float16, Volta
# Least rows of a GPU's share for 16 bits; with fewer, a step is mostly launches, of which float32
# has the fewest (docs/gpu_evidence.md). An estimate, as no GPU was at hand.
_ROWS_THAT_PAY = 2_048
_MEASURING = "measuring the implementations of the multi-hot product"


@dataclass(kw_only=True)
class Known:
    settings: Settings
    devices: Devices
    train: Examples
    resident_bytes: int  # Memory that all rows take on one device
    model: keras.Model | None = None  # None for the precision, in which a function makes its layers
    tables: TablesAsked | None = None  # None while the precision is chosen
    left_bytes: int = 0  # Memory of a device that the model and all that goes with it leave
    before: Settings | None = None  # Settings of the run that is resumed
    chosen: dict[str, Choice]  # The choices made so far, by setting
    console: Console | None = None  # shows what takes long; None shows nothing


def settle(name: str, known: Known) -> Choice:
    """Returns a setting's choice: as asked for, else as in the run resumed, else new."""
    asked = getattr(known.settings, name)
    if asked != "auto":
        choice = Choice(name=str(asked), why="asked for")
    elif known.before is not None and getattr(known.before, name) != "auto":  # else chosen anew
        choice = Choice(name=str(getattr(known.before, name)), why="as in the run resumed")
    else:
        choice = _CHOOSERS[name](known)
    return _CHECKS[name](choice, known) if name in _CHECKS else choice


def settings_before(recorded: Mapping[str, Any], device_type: str) -> Settings:
    """Returns the settings of a run that is resumed. On another kind of device than the recorded
    one, those that only change its speed are `auto`, so that they are chosen anew."""
    before = Settings.of(recorded)
    if recorded.get("device_type", "") in ("", device_type):
        return before
    return replace(before, implementation="auto", steps_per_dispatch="auto")


def _precision(known: Known) -> Choice:
    # A policy that the user set for all of Keras stands over the rule.
    if (own := keras.config.dtype_policy().name) != "float32":
        return Choice(name=own, why="as keras.config.set_dtype_policy says")
    devices, rows = known.devices, known.settings.batch_size // known.devices.num_shares
    return choose_precision(devices.device_type, devices.compute_capability, rows=rows)


def choose_precision(
    device_type: str, compute_capability: tuple[int, int] | None, *, rows: int
) -> Choice:
    """Returns what `auto` stands for, by the weakest GPU and the rows of a device's share."""
    if device_type != "GPU":
        return Choice(name="float32", why="CPU: 16-bit arithmetic is not faster there")
    if compute_capability is None:
        return Choice(name="float32", why="GPU of unknown compute capability")
    if rows < _ROWS_THAT_PAY:
        return Choice(name="float32", why=f"with {rows:,} rows a GPU, a step is mostly launches")
    shown = ".".join(map(str, compute_capability))
    if compute_capability >= _BFLOAT16_CAPABILITY:
        return Choice(name="mixed_bfloat16", why=f"compute capability {shown} has bfloat16")
    if compute_capability >= _FLOAT16_CAPABILITY:
        return Choice(name="mixed_float16", why=f"compute capability {shown} has float16 only")
    return Choice(name="float32", why=f"compute capability {shown} has no 16-bit tensor cores")


def _implementation(known: Known) -> Choice:
    assert known.model is not None
    layers = [layer for layer in multi_hot_layers(known.model) if layer.implementation is None]
    if not layers or not known.train.ragged:
        return Choice(name="gather", why="the model has no MultiHotDense that asks for one")
    # Measured for the largest layer and the shapes of one device's batch.
    widest = max(layers, key=lambda layer: layer.num_tokens * layer.units)
    longest = max(known.train.ragged.values(), key=lambda sets: sets.nnz)
    rows = known.settings.batch_size // known.devices.num_shares
    num_values = capacities_for_any_order(longest.lengths[None], rows=rows).typical[0]
    if num_values <= widest.num_tokens and _updates_rows(known):
        # The update of the other rows, which the measurement lacks, costs more than all of native.
        why = f"after dense, all {widest.num_tokens:,} rows of the table would be updated"
        return Choice(name="native", why=f"chosen without measuring: {why}")
    with _shown(known.console) as tell:
        choice = choose_implementation(
            num_rows=rows,
            num_values=num_values,
            num_tokens=widest.num_tokens,
            units=widest.units,
            dtype=widest.compute_dtype,
            unique=longest.is_unique,
            weighted=longest.weights is not None,
            device=known.devices.names[0].removeprefix("/"),
            deterministic=known.settings.deterministic,
            tell=tell,
        )
    return Choice(name=choice.name, why=choice.why)


def _updates_rows(known: Known) -> bool:
    """Whether a step on a CPU would update the touched rows of the table alone after `native`."""
    is_open = known.settings.table_optimizer == "auto" and known.devices.device_type == "CPU"
    return (
        is_open
        and why_unavailable("native", "CPU") is None
        and choose_table_optimizer(known.tables, "native").name != "dense"
    )


@contextmanager
def _shown(console: Console | None) -> Iterator[Callable[[str], None]]:
    """Yields a function that gets each candidate of a measurement. A terminal shows it; elsewhere a
    line says what goes on, if that takes more than 2 seconds."""
    console = console or Console(quiet=True)
    status = console.status(_MEASURING)
    line = threading.Timer(2.0, console.print, (f"{_MEASURING} ...",))

    def tell(candidate: str) -> None:
        if console.is_interactive:
            status.update(f"{_MEASURING}: {candidate}")
            status.start()
        elif line.ident is None:
            line.start()

    try:
        yield tell
    finally:
        line.cancel()
        status.stop()


def _available(choice: Choice, known: Known) -> Choice:
    """Returns the choice if it can run here; chooses anew if `auto` took it on another machine."""
    # Layers that name an implementation need it, whatever the trainer chose for the others.
    assert known.model is not None
    own = {layer.implementation for layer in multi_hot_layers(known.model)}
    for name in sorted({choice.name, *filter(None, own)}):
        if reason := why_unavailable(name, known.devices.device_type):
            if known.settings.implementation == "auto" and name == choice.name:
                return _implementation(known)
            raise InputError(
                f"--implementation={name} cannot be had on {', '.join(known.devices.names)}: "
                f"{reason}; set --implementation=auto"
            )
    return choice


def _input(known: Known) -> Choice:
    share = known.resident_bytes / known.devices.memory_bytes
    shown = f"the data set takes {known.resident_bytes / 1e6:,.1f} MB, {share:.1%} of a device's"
    # Resident first: a dispatch then sends row ids alone, whatever the rows hold.
    if share <= _RESIDENT_SHARE and known.resident_bytes <= known.left_bytes:
        return Choice(name="resident", why=f"{shown} memory")
    is_large = share > _RESIDENT_SHARE
    limit = f"more than {_RESIDENT_SHARE:.0%}" if is_large else "more than the model leaves"
    if known.resident_bytes > _STREAM_SHARE * (free := free_bytes()):
        limit += f", and more than {_STREAM_SHARE:.0%} of the {free / 1e6:,.1f} MB free on the host"
        return Choice(name="mapped", why=f"{shown} memory, {limit}")
    return Choice(name="stream", why=f"{shown} memory, {limit}")


def _steps_per_dispatch(known: Known) -> Choice:
    rows = known.settings.batch_size // known.devices.num_shares
    ids = rows * known.train.nnz / known.train.num_rows
    whole = max(1, known.train.num_rows // known.settings.batch_size)
    assert known.model is not None
    implementation, device_type = known.chosen["implementation"].name, known.devices.device_type
    bytes_moved, flops = work_of_step(known.model, rows, ids, implementation)
    # On a GPU, the ids of all steps of a call are sorted before its loop.
    sorts = implementation == "native" and device_type == "GPU"
    prepared_bytes = sum(
        sets.nnz * ((8 if sets.weights is None else 12) + 20 * sorts)
        for sets in known.train.ragged.values()
    )
    steps = steps_per_call(
        bytes_moved=bytes_moved,
        flops=flops,
        prepared_bytes=rows * prepared_bytes / known.train.num_rows,
        device_type=device_type,
        steps_per_epoch=whole,
    )
    steps += steps == whole  # an epoch's last, smaller batch goes with all others
    why = f"per call; a dispatch makes as many calls as take {AIM_SECONDS} s, as measured"
    return Choice(name=str(steps), why=why)


def work_of_step(
    model: keras.Model, rows: int, ids: float, implementation: str
) -> tuple[float, float]:
    """Returns the bytes that a model's step moves without caches, and its operations, for a
    device's rows and their ids. A multi-hot layer reads a row of its units for each id and adds one
    backward. Adam reads and writes seven numbers a weight. A matrix costs six operations a row."""
    bytes_moved = flops = 0.0
    tables = set()
    for layer in model._flatten_layers():
        if isinstance(layer, MultiHotDense):
            tables.add(id(layer.kernel))
            # `dense` multiplies with all rows of the table, the others add up those of the ids.
            is_dense = (layer.implementation or implementation) == "dense"
            flops += layer.units * (6 * rows * layer.num_tokens if is_dense else 2 * ids)
            bytes_moved += 2 * ids * layer.units * 4
    for variable in model.trainable_variables:
        size = math.prod(variable.shape)
        bytes_moved += 8 * 4 * size
        flops += 12 * size
        if len(variable.shape) > 1 and id(variable) not in tables:
            flops += 6 * rows * size
    return bytes_moved, flops


def _within_epoch(choice: Choice, known: Known) -> Choice:
    steps = known.settings.steps_per_epoch(known.train.num_rows)
    if int(choice.name) < steps:
        return choice
    asked = f"; {choice.name} asked for" if choice.why == "asked for" else ""
    return Choice(name=str(steps), why=f"a whole epoch{asked}")


# In the order in which settings are settled. All but the precision know the model. The replicas are
# settled before, with the devices, the all-reduce after.
_CHOOSERS: dict[str, Callable[[Known], Choice]] = {
    "precision": _precision,
    "implementation": _implementation,
    "table_optimizer": lambda known: choose_table_optimizer(
        known.tables, cast(Implementation, known.chosen["implementation"].name)
    ),
    "input": _input,
    "steps_per_dispatch": _steps_per_dispatch,
}
# The checks of a choice, by setting; they apply also to what was asked for.
_CHECKS = {"implementation": _available, "steps_per_dispatch": _within_epoch}
WITH_MODEL = tuple(name for name in _CHOOSERS if name != "precision")
