"""Counts the launches and memsets in an optimized program's loop, and judges them.

It imports only Python's own modules, for an environment that has JAX and no TensorFlow.
"""

import collections
import math
import re
from typing import Any

_FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"),
    *("all-reduce-done", "copy-done", "async-done", "partition-id", "replica-id"),
}
"""Instructions that launch nothing."""
_CAPTURABLE = {
    *("fusion", "fusion-start", "fusion-done", "copy", "copy-start", "custom-call", "sort"),
    *("dynamic-slice", "dynamic-update-slice", "all-reduce", "all-reduce-start"),
}
"""What XLA can record into a CUDA graph; TensorFlow's defaults leave out sorts and all-reduces."""
_OWN = "multi_hot_cuda_"
"""The prefix of the targets of the project's kernels; a test looks at their handlers' traits."""
_CAPTURABLE_TARGETS = ("__cublas", "__cudnn", "__triton", _OWN)
_OF_ROWS = ["touch", "row_gradients", "update_rows"]
"""The kernels that replace the backward pass if a table is updated by rows; the ids of several GPUs
are sorted in the step, by `index`, as they meet there."""
_TO_THE_HOST = {"infeed", "outfeed", "send", "recv", "host-compute"}


def _nodes(call: str, num_tokens: int) -> int:
    """Returns the kernels and memsets that a call of the project launches, by binding.cc."""
    passes_of_sort = math.ceil(num_tokens.bit_length() / 8)
    index = 2 + 2 * passes_of_sort
    several = {"gradient": 3, "index": index, "touch_sorted": 2, "row_gradients": 2}
    return several.get(call, 1)


def counts(program: str, num_tokens: int) -> dict[str, Any]:
    """Counts launches and more in the largest loop of XLA's text of an optimized program, whose
    table has `num_tokens` rows. What a library's call launches is not known, and counts as one."""
    computations: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in program.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(start[1], [])
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line)
    loops = re.findall(r" while\(.*?body=%?([\w.\-]+)(.*)", program)
    body = max((computations[name] for name, _ in loops), key=len, default=[])
    kinds = collections.Counter(
        found[1]
        for line in body
        if (found := re.match(r"\s*(?:ROOT )?%\S+ = .*? ([\w\-]+)\(", line))
    )
    targets = [
        found[1]
        for line in body
        if " custom-call(" in line and (found := re.search(r'custom_call_target="([^"]+)"', line))
    ]
    unknown = {t for t in targets if not t.startswith(_CAPTURABLE_TARGETS)}
    own_calls = sorted(t.removeprefix(_OWN) for t in targets if t.startswith(_OWN))
    inside = sum(_nodes(call, num_tokens) - 1 for call in own_calls)
    return {
        "own_calls": own_calls,
        "not_capturable": sorted(unknown | (set(kinds) - _FREE - _CAPTURABLE)),
        "loops": len(loops),
        "trip_count_known": all("known_trip_count" in rest for _, rest in loops),
        "launches_per_step": inside + sum(n for kind, n in kinds.items() if kind not in _FREE),
        "collectives_per_step": kinds["all-reduce"] + kinds["all-reduce-start"],
        "host_transfers": sum(n for kind, n in kinds.items() if kind in _TO_THE_HOST),
    }


def faults(rows: list[dict[str, Any]]) -> list[str]:
    """Returns the faults that no program may have."""
    found = []
    for row in rows:
        where = f"{row['name']} on {row['card']}"
        if not row["loops"]:
            found.append(f"{where}: no loop, so that nothing could be counted")
        if not row["trip_count_known"]:
            found.append(f"{where}: a loop has no known trip count")
        if row["host_transfers"]:
            found.append(f"{where}: a transfer to the host inside the loop")
        if row["implementation"] == "native":
            table = row.get("table", "dense")
            backward = ["gradient"] if table == "dense" else _OF_ROWS
            backward = [*backward, "catch_up"] if table == "exact_adam" else backward
            backward = [*backward, "index"] if table != "dense" and row["gpus"] > 1 else backward
            passes = ["forward", *backward] if row["kind"] == "train" else ["forward"]
            calls = [c.removesuffix("_sorted") for c in row["own_calls"] if c != "take_rows"]
            if calls != sorted(passes):
                found.append(f"{where}: calls {', '.join(calls) or 'none'} of the kernels")
            if row["not_capturable"]:
                names = ", ".join(row["not_capturable"])
                found.append(f"{where}: {names} cannot be part of a CUDA graph")
        expected = 1 if row["gpus"] > 1 else 0
        if row["collectives_per_step"] != expected:
            found.append(
                f"{where}: {row['collectives_per_step']} collectives a step, not {expected}"
            )
    return found


def regressions(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[str]:
    """Returns the programs that launch more than before, or that have no record of before."""
    least = {(row["name"], row["card"]): row["launches_per_step"] for row in before}
    return [
        f"{row['name']} on {row['card']}: {row['launches_per_step']} launches a step, "
        f"{least.get((row['name'], row['card']), 'nothing on record')} before"
        for row in rows
        if row["launches_per_step"] > least.get((row["name"], row["card"]), -1)
    ]
