"""What bounds a run, from the step times of variants that leave a part of it out.

Letters: B rows of a batch, V num_tokens, H units of the first layer, N ids of a batch.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Bound = Literal["input", "launch", "communication", "memory", "compute"]

_DECIDES = 0.3
"""A stage that takes this share of the step bounds the run: without it the run would be 1.4 times
as fast."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step has to do at least."""

    bytes_moved: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Where a step's time goes."""

    step_ms: float
    shares: Mapping[str, float]
    """Of the step's time, by stage. They need not add up: what is left out may have overlapped."""
    memory_roof_share: float
    """Of the measured memory bandwidth; above 1 where the caches serve."""
    compute_roof_share: float
    """Of the measured speed of a matrix product."""
    bound: Bound


def work_of_step(
    *,
    rows: int,
    ids: float,
    num_tokens: int,
    hidden_units: Sequence[int],
    num_outputs: int,
    compute_bytes: int,
) -> Work:
    """What a step of the network has to move and to compute, if no cache helped.

    Args:
        rows: B.
        ids: N.
        num_tokens: V.
        hidden_units: of each layer, H first.
        num_outputs: of the head.
        compute_bytes: of a number in the layers' arithmetic.

    Forward reads a row of H numbers for each id, backward adds one; Adam reads gradient, weight and
    two moments, and writes three of them back, in float32. A dense layer costs two operations for
    each weight and row forward, four backward; a multi-hot one a sum for each id either way.
    """
    widths = [*hidden_units, num_outputs]
    dense = sum(a * b for a, b in itertools.pairwise(widths))
    parameters = num_tokens * widths[0] + dense + sum(widths)
    return Work(
        bytes_moved=2 * ids * widths[0] * compute_bytes + 8 * 4 * parameters,
        flops=2 * ids * widths[0] + 6 * rows * dense + 12 * parameters,
    )


def diagnose(
    step_ms: Mapping[str, float],
    *,
    data_wait_fraction: float,
    steps_per_dispatch: float,
    work: Work,
    roofs: Mapping[str, float],
) -> Diagnosis:
    """Names what bounds a run.

    Args:
        step_ms: time of a step of each variant (`protocol.Variant`); of `empty dispatch`, of a
            whole dispatch. With one replica there is nothing to reduce, and `no all-reduce` is
            `fixed batch`.
        data_wait_fraction: of the full run.
        steps_per_dispatch: mean of the full run.
        work: of a step.
        roofs: `bytes_per_second` and `flops_per_second` of all devices together.
    """
    full = step_ms["full"]
    shares = {
        "input": max(data_wait_fraction, 1 - step_ms["fixed batch"] / full),
        "launch": step_ms["empty dispatch"] / steps_per_dispatch / full,
        "communication": (step_ms["fixed batch"] - step_ms["no all-reduce"]) / full,
        "first layer": (step_ms["fixed batch"] - step_ms["no first layer"]) / full,
        "optimizer": (step_ms["fixed batch"] - step_ms["no optimizer"]) / full,
        "other layers": step_ms["no first layer"] / full,
    }
    shares = {stage: min(1.0, max(0.0, share)) for stage, share in shares.items()}
    seconds = full / 1e3
    memory = work.bytes_moved / seconds / roofs["bytes_per_second"]
    compute = work.flops / seconds / roofs["flops_per_second"]
    outer: tuple[Bound, ...] = ("input", "launch", "communication")
    worst = max(outer, key=lambda stage: shares[stage])
    bound: Bound = "memory" if memory >= compute else "compute"
    return Diagnosis(
        step_ms=full,
        shares=shares,
        memory_roof_share=memory,
        compute_roof_share=compute,
        bound=worst if shares[worst] >= _DECIDES else bound,
    )
