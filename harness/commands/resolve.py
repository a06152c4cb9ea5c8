"""What every `auto` of a run comes to, and why."""

from dataclasses import dataclass

from harness.config import ExecutionConfig, TrainConfig
from harness.data.sources import Dataset
from harness.engine.devices import Devices
from harness.errors import InputError
from harness.model.precision import choose_precision
from harness.pipeline.cadence import AIM_SECONDS, estimated_steps
from harness.pipeline.capacity import capacities_for_any_order
from harness.pipeline.resident import resident_bytes
from harness.records import Choice
from kernels.multi_hot.native.build import NativeUnavailableError
from kernels.multi_hot.native.library import load as load_native
from kernels.multi_hot.select import choose_implementation

_STREAM_STEPS = 20
"""Past this many the cost of a call no longer shows; a stream prepares them ahead, in memory."""
_RESIDENT_SHARE = 0.25
"""Of a device's memory: the rest is for the network, its optimizer and what XLA plans."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The settings that may be left to the harness, settled."""

    precision: Choice
    implementation: Choice
    input: Choice
    steps_per_dispatch: Choice

    @property
    def num_steps(self) -> int:
        """Steps per dispatch, as a number."""
        return int(self.steps_per_dispatch.name)


def resolve(
    config: TrainConfig,
    dataset: Dataset,
    devices: Devices,
    *,
    before: ExecutionConfig | None = None,
) -> Choices:
    """Settles every `auto` of `config`; what was asked for by name is taken as it is.

    Args:
        config: what was asked for.
        dataset: what is trained on.
        devices: where the run computes.
        before: of the run that is resumed, every `auto` resolved: it will be so again.

    Raises:
        InputError: when `native` was asked for and cannot be had.
    """
    execution = config.execution

    def named(setting: str) -> Choice | None:
        """None: it is left to the harness."""
        asked = getattr(execution, setting)
        if asked != "auto":
            return Choice(name=str(asked), why="asked for")
        if before is not None:
            return Choice(name=str(getattr(before, setting)), why="as in the run resumed")
        return None

    precision = named("precision") or choose_precision(
        execution.precision,
        device_type=devices.device_type,
        compute_capability=devices.compute_capability,
    )
    implementation = named("implementation")
    if implementation is None:
        implementation = _measured(config, dataset, devices, precision=precision.name)
    elif implementation.name == "native":
        _require_native(devices)
    input_ = named("input") or _input(dataset, devices)
    steps_per_epoch = -(-dataset.train.num_rows // execution.batch_size)
    auto_steps, why = _STREAM_STEPS, "hides the cost of a call, and Ctrl-C stays prompt"
    if input_.name == "resident":
        rows = execution.batch_size // devices.num_replicas
        auto_steps = estimated_steps(
            tokens_per_step=rows * float(dataset.train.lengths.mean()),
            rows=rows,
            hidden_units=config.model.hidden_units,
            implementation=implementation.name,
        )
        why = f"estimated to last {AIM_SECONDS:.1f} s"
    return Choices(
        precision=precision,
        implementation=implementation,
        input=input_,
        steps_per_dispatch=_within_epoch(
            named("steps_per_dispatch") or Choice(name=str(auto_steps), why=why), steps_per_epoch
        ),
    )


def _input(dataset: Dataset, devices: Devices) -> Choice:
    """Whether the data set is to lie on the devices."""
    needed = resident_bytes(dataset.train) + resident_bytes(dataset.test)
    share = needed / devices.memory_bytes
    shown = f"the data set takes {needed / 1e6:,.1f} MB, {share:.1%} of a device's memory"
    if share <= _RESIDENT_SHARE:
        return Choice(name="resident", why=shown)
    return Choice(name="stream", why=f"{shown}, more than {_RESIDENT_SHARE:.0%}")


def _measured(config: TrainConfig, dataset: Dataset, devices: Devices, *, precision: str) -> Choice:
    """The implementation that is fastest for the shapes of one replica's batch."""
    rows = config.execution.batch_size // devices.num_replicas
    choice = choose_implementation(
        num_rows=rows,
        num_values=capacities_for_any_order(dataset.train.lengths, rows=rows).typical,
        num_tokens=dataset.num_tokens,
        units=config.model.hidden_units[0],
        dtype=precision.removeprefix("mixed_"),
        unique=dataset.is_unique,
        device=devices.names[0].removeprefix("/"),
    )
    if not choice.seconds_by_name:
        return Choice(name=choice.name, why=choice.why.removeprefix(f"{choice.name}, "))
    times = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in choice.seconds_by_name.items())
    when = "measured before" if choice.from_cache else f"measured in {choice.took_seconds:.1f} s"
    return Choice(name=choice.name, why=f"{when}, forward and backward: {times}")


def _require_native(devices: Devices) -> None:
    """Builds and loads the kernels now, so that what is missing is said before anything runs."""
    if devices.device_type != "CPU":
        raise InputError(
            f"--implementation native runs on CPU only, and this run computes on "
            f"{', '.join(devices.names)}; set --implementation auto"
        )
    try:
        load_native()
    except NativeUnavailableError as error:
        raise InputError(f"--implementation native cannot be had here: {error}") from error


def _within_epoch(wanted: Choice, steps_per_epoch: int) -> Choice:
    """Steps per dispatch; a dispatch ends with its epoch."""
    if int(wanted.name) < steps_per_epoch:
        return wanted
    asked = f"; {wanted.name} asked for" if wanted.why == "asked for" else ""
    return Choice(name=str(steps_per_epoch), why=f"a whole epoch{asked}")
