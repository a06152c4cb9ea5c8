"""How many steps a dispatch holds where every number is as good for the compiled program."""

import itertools
from collections.abc import Sequence

from harness.records import Observer, Window

AIM_SECONDS = 0.2
"""A dispatch of this length hides the cost of a call, and still lets Ctrl-C and the progress bar
through several times a second."""
_TOO_LONG_SECONDS = 0.5
_TOO_SHORT_SECONDS = AIM_SECONDS / 2
_GROWTH = 4
"""At most, from one dispatch to the next: one that happened to be quick shall not mislead much."""

_SUMS_PER_SECOND = {"native": 3e9, "gather": 6e8, "dense": 4.5e8}
"""Elements of the table added up, forward and backward, on two CPU cores, rounded down."""
_PRODUCTS_PER_SECOND = 2e10
"""Multiplications of the other layers, forward and backward, likewise."""
_STEP_SECONDS = 3e-4
"""The rest of a step of the tutorial's size."""


def estimated_steps(
    *, tokens_per_step: float, rows: int, hidden_units: Sequence[int], implementation: str
) -> int:
    """Steps that last about `AIM_SECONDS`, by what was measured on two CPU cores.

    Args:
        tokens_per_step: ids of one replica's batch.
        rows: of one replica's batch.
        hidden_units: of the network.
        implementation: of the multi-hot product.

    Where a run begins; `StepsPerDispatch` corrects it.
    """
    sums = tokens_per_step * hidden_units[0]
    products = 3 * rows * sum(m * n for m, n in itertools.pairwise(hidden_units))
    seconds = _STEP_SECONDS + products / _PRODUCTS_PER_SECOND
    seconds += sums / _SUMS_PER_SECOND[implementation]
    return max(1, int(AIM_SECONDS / seconds))


class StepsPerDispatch(Observer):
    """The number of steps of the next dispatch, adapted to how long the last one took.

    What a step computes does not depend on it, nor does the compiled program.
    """

    def __init__(self, num_steps: int, *, fixed: bool, most: int = 0) -> None:
        """Args:
        num_steps: to begin with.
        fixed: whether the user asked for this very number.
        most: up to which it may grow towards `AIM_SECONDS`; 0 for not at all.
        """
        self.num_steps = num_steps
        self._fixed = fixed
        self._most = most

    def on_window(self, window: Window) -> None:
        """Halves after half a second, so that Ctrl-C and the progress bar stay prompt; grows after
        less than half of the aim, unless an epoch's end had cut the dispatch short."""
        if self._fixed:
            return
        if window.seconds > _TOO_LONG_SECONDS:
            self.num_steps = max(1, window.num_steps // 2)
        elif window.seconds < _TOO_SHORT_SECONDS and window.num_steps == self.num_steps:
            aimed_at = int(window.num_steps * min(_GROWTH, AIM_SECONDS / window.seconds))
            self.num_steps = max(self.num_steps, min(self._most, aimed_at))
