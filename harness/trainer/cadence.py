"""The number of steps in one call of a compiled program, and of calls in a dispatch."""

from dataclasses import dataclass

from harness.feed.plan import call_length

AIM_SECONDS = 0.2
"""Length of a dispatch to aim for: it hides the cost of a host sync, and still lets Ctrl-C and the
progress bar through several times a second."""
_TOO_LONG_SECONDS = 0.5
_TOO_SHORT_SECONDS = AIM_SECONDS / 2
_GROWTH = 4  # Limit of the growth, so that a quick dispatch does not mislead much
_MAX_EPOCHS = 64  # Limit of the epochs of a dispatch, whose row ids lie on the device together

_LEAST_PER_SECOND = {"CPU": (1e10, 1e10), "GPU": (5e10, 1e12)}
"""Bytes moved and operations done in a second by the slowest device of each kind that is worth
training on. They are no measurements of the machine at hand."""
_MAX_CALL_BYTES = 2**28  # Limit of the data that is prepared for all steps of a call at once


def steps_per_call(
    *,
    bytes_moved: float,
    flops: float,
    prepared_bytes: float,
    device_type: str,
    steps_per_epoch: int,
) -> int:
    """Returns the length of the compiled loop, a constant of its program: long enough to hide the
    cost of a call, but at most a second's work, because nothing has been measured when the program
    is compiled. `prepared_bytes` are prepared for each step, such as its ids and their rows."""
    bytes_per_second, flops_per_second = _LEAST_PER_SECOND[device_type]
    seconds = bytes_moved / bytes_per_second + flops / flops_per_second
    most = min(1 / seconds, _MAX_CALL_BYTES / max(prepared_bytes, 1), steps_per_epoch)
    return call_length(max(1, int(most)), steps_per_epoch)


@dataclass(kw_only=True)
class Cadence:
    """The calls of the next dispatch, by how long the last one took; no result depends on it."""

    steps_per_call: int
    fixed: bool  # whether every dispatch is one call
    # Steps of an epoch, if a dispatch may run several; None if it ends at the latest with its epoch
    steps_per_epoch: int | None = None
    num_calls: int = 1

    @property
    def num_epochs(self) -> int:
        """Number of whole epochs in the next dispatch; 1 if it is one epoch or a part of one."""
        if self.steps_per_epoch is None:
            return 1
        found = self.num_calls * self.steps_per_call // self.steps_per_epoch
        return min(max(1, found), _MAX_EPOCHS)

    def after(self, num_steps: int, seconds: float) -> None:
        """Halves the calls of a dispatch that took over half a second, so that Ctrl-C and the
        progress bar stay prompt; raises them below half the aim, unless an epoch's end cut the
        dispatch short."""
        if self.fixed:
            return
        whole = self.num_calls * self.steps_per_call
        if self.steps_per_epoch is not None and whole > self.steps_per_epoch:
            whole = self.num_epochs * self.steps_per_epoch
        if seconds > _TOO_LONG_SECONDS:
            self.num_calls = max(1, self.num_calls // 2)
        elif seconds < _TOO_SHORT_SECONDS and num_steps >= whole and self.num_epochs < _MAX_EPOCHS:
            self.num_calls = int(self.num_calls * min(_GROWTH, AIM_SECONDS / seconds))
