"""What every `auto` of a run comes to, and why."""

from dataclasses import dataclass

from harness.config import ExecutionConfig
from harness.engine.devices import Devices
from harness.model.precision import choose_precision
from harness.records import Choice

_AUTO_STEPS_PER_DISPATCH = 20
"""Past this many the cost of a call no longer shows; Ctrl-C and the progress bar stay prompt."""


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


def resolve(config: ExecutionConfig, devices: Devices, *, steps_per_epoch: int) -> Choices:
    """Settles every `auto` of `config`; what was asked for by name is taken as it is."""
    return Choices(
        precision=choose_precision(
            config.precision,
            device_type=devices.device_type,
            compute_capability=devices.compute_capability,
        ),
        implementation=_asked(config.implementation)
        or Choice(name="gather", why="works on every device, with work in proportion to the ids"),
        input=_asked(config.input) or Choice(name="stream", why="the only input so far"),
        steps_per_dispatch=_asked(config.steps_per_dispatch)
        or _steps_per_dispatch(steps_per_epoch),
    )


def _asked(setting: str | int) -> Choice | None:
    return None if setting == "auto" else Choice(name=str(setting), why="asked for")


def _steps_per_dispatch(steps_per_epoch: int) -> Choice:
    if steps_per_epoch <= _AUTO_STEPS_PER_DISPATCH:
        return Choice(name=str(steps_per_epoch), why="a whole epoch")
    return Choice(
        name=str(_AUTO_STEPS_PER_DISPATCH),
        why="hides the cost of a call, and Ctrl-C stays prompt",
    )
