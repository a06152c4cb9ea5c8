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


def resolve(
    config: ExecutionConfig,
    devices: Devices,
    *,
    steps_per_epoch: int,
    before: ExecutionConfig | None = None,
) -> Choices:
    """Settles every `auto` of `config`; what was asked for by name is taken as it is.

    Args:
        config: what was asked for.
        devices: where the run computes.
        steps_per_epoch: a dispatch cannot hold more.
        before: of the run that is resumed, every `auto` resolved: it will be so again.
    """

    def named(setting: str) -> Choice | None:
        """None: it is left to the harness."""
        asked = getattr(config, setting)
        if asked != "auto":
            return Choice(name=str(asked), why="asked for")
        if before is not None:
            return Choice(name=str(getattr(before, setting)), why="as in the run resumed")
        return None

    return Choices(
        precision=named("precision")
        or choose_precision(
            config.precision,
            device_type=devices.device_type,
            compute_capability=devices.compute_capability,
        ),
        implementation=named("implementation")
        or Choice(name="gather", why="works on every device, with work in proportion to the ids"),
        input=named("input") or Choice(name="stream", why="the only input so far"),
        steps_per_dispatch=_within_epoch(named("steps_per_dispatch"), steps_per_epoch),
    )


def _within_epoch(named: Choice | None, steps_per_epoch: int) -> Choice:
    """Steps per dispatch; every dispatch has room for all of them, so never more than an epoch."""
    if named is None:
        if steps_per_epoch > _AUTO_STEPS_PER_DISPATCH:
            why = "hides the cost of a call, and Ctrl-C stays prompt"
            return Choice(name=str(_AUTO_STEPS_PER_DISPATCH), why=why)
        return Choice(name=str(steps_per_epoch), why="a whole epoch")
    if int(named.name) > steps_per_epoch:
        return Choice(name=str(steps_per_epoch), why=f"a whole epoch; {named.name} asked for")
    return named
