"""A trace as xprof reads it: its events, its compiled programs, its table of steps."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.profile import convert

INSTALL = f"{sys.executable} -m pip install 'xprof>=2.24,<3' (the extra `profile`)"


class ConversionError(Exception):
    """xprof could not read the trace: the message says what it wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that took time, on a thread or a device."""

    device: str
    """xprof's name, such as `cpu:0` for the host and `gpu:0`."""
    thread: str | None
    """On the host."""
    name: str
    op: str | None
    """Of the compiled program, where this is one of its operations."""
    module: str | None
    """The compiled program."""
    tensorflow_op: str | None
    tensorflow_type: str | None
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation of a compiled program, as XLA calls it."""

    opcode: str
    path: str
    """TensorFlow's name scopes and the name in them, or those of the operation that uses it; empty
    where neither has any."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a captured profile holds."""

    events: tuple[Event, ...]
    """By start."""
    operations: dict[tuple[str, str], Operation]
    """By compiled program and name."""
    overview: dict[str, dict[str, float]]
    """Of xprof's steps, such as `train 20`: milliseconds by category, and `Step time`, their sum.
    Steps that it finds incomplete are left out."""


def is_readable() -> bool:
    """Whether what reads a trace is installed; capturing one needs it not."""
    return importlib.util.find_spec("xprof") is not None


def read(path: Path) -> Trace:
    """The trace in the file at `path`, `.../plugins/profile/TIME/HOST.xplane.pb`.

    Raises:
        ConversionError: when xprof cannot read it.
    """
    done = subprocess.run(
        [sys.executable, "-P", convert.__file__, str(path)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ConversionError(f"xprof (2.24 or later) cannot read {path}: {last[0]}")
    content = json.loads(done.stdout)
    events = (Event(**dict(zip(content["columns"], row, strict=True))) for row in content["rows"])
    return Trace(
        events=tuple(events),
        operations=_operations(path.parent),
        overview=_overview(content["overview"]),
    )


def _operations(folder: Path) -> dict[tuple[str, str], Operation]:
    """Those of the programs that xprof took out of the trace, in XLA's own message type."""
    from tensorflow.compiler.xla.service import hlo_pb2

    found = {}
    for file in folder.glob("*.hlo_proto.pb"):
        proto = hlo_pb2.HloProto.FromString(file.read_bytes())
        module = file.name.removesuffix(".hlo_proto.pb")
        for computation in proto.hlo_module.computations:
            # What XLA adds (copies, halves of reductions) has no scopes: it belongs to what uses
            # it. Users stand behind what they use.
            inherited: dict[int, str] = {}
            for instruction in reversed(computation.instructions):
                path = instruction.metadata.op_name or inherited.get(instruction.id, "")
                found[module, instruction.name] = Operation(opcode=instruction.opcode, path=path)
                if path:
                    for operand in instruction.operand_ids:
                        inherited.setdefault(operand, path)
    return found


def _overview(page: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The overview's table of steps: the one that has a column `Step time`."""
    for table in page:
        labels = [column["label"] for column in table.get("cols", ())]
        if "Step time" in labels:
            cells = [[cell["v"] for cell in row["c"]] for row in table["rows"]]
            return {
                row[labels.index("Step number")]: {
                    label: value
                    for label, value in zip(labels, row, strict=True)
                    if isinstance(value, int | float)
                }
                for row in cells
            }
    return {}
