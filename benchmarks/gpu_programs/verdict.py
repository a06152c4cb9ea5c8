"""Counts the launches and memsets in an optimized program's loop, and compares them with a record.

It imports only Python's own modules, for an environment that has JAX and no TensorFlow.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any

Table = dict[str, dict[str, int]]
"""The launches a step of each program on each card."""

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


def _kernels(program: dict[str, Any]) -> list[str]:
    """Returns the kernels that a program of `native` calls in a step, sorted."""
    if program["kind"] == "evaluate":
        return ["forward"]
    if program["table"] == "dense":
        return ["forward", "gradient"]
    calls = ["forward", "touch", "row_gradients", "update_rows"]
    calls += ["catch_up"] if program["table"] == "exact_adam" else []
    # The ids of several GPUs meet in the step, and are sorted there.
    calls += ["index"] if program["gpus"] > 1 else []
    return sorted(calls)


def faults(program: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Yields the faults that no program may have, from what `lower.py` and `counts` say of it."""
    if not found["loops"]:
        yield "no loop, so that nothing could be counted"
    if not found["trip_count_known"]:
        yield "a loop has no known trip count"
    if found["host_transfers"]:
        yield "a transfer to the host inside the loop"
    if found["collectives_per_step"] != int(program["gpus"] > 1):
        yield f"{found['collectives_per_step']} collectives a step, not {int(program['gpus'] > 1)}"
    if program["implementation"] == "native":
        calls = [c.removesuffix("_sorted") for c in found["own_calls"] if c != "take_rows"]
        if calls != _kernels(program):
            yield f"calls {', '.join(calls) or 'none'} of the kernels"
        if found["not_capturable"]:
            yield f"{', '.join(found['not_capturable'])} cannot be part of a CUDA graph"


def regressions(now: Table, before: Table) -> Iterator[str]:
    """Yields the programs that launch more than before, or that have no record of before."""
    for name, cards in now.items():
        for card, launches in cards.items():
            least = before.get(name, {}).get(card)
            if least is None or launches > least:
                known = "nothing on record" if least is None else least
                yield f"{name} on {card}: {launches} launches a step, {known} before"


def written(table: Table) -> str:
    """Returns a record: a line for each program, with a column for each card."""
    cards = list(next(iter(table.values())))
    rows = [("program", *cards), *((name, *map(str, own.values())) for name, own in table.items())]
    return "".join(f"{name:<50}{''.join(f'{n:>11}' for n in own)}\n" for name, *own in rows)


def read(record: str) -> Table:
    """Returns the table of a record."""
    (_, *cards), *rows = map(str.split, record.splitlines())
    return {name: dict(zip(cards, map(int, own), strict=True)) for name, *own in rows}
