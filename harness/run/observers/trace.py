"""Reads a profile's trace by xprof: its events and its compiled programs.

Run as a program, `python -P trace.py HOST.xplane.pb`, it writes what xprof's converters make of
the file to standard output, as JSON. It needs a process of its own because xprof's libraries export
the same C++ symbols as TensorFlow's: loaded beside TensorFlow, they call into its libraries (2.24
then never returns). So this module imports nothing of the harness.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTALL = f"{sys.executable} -m pip install 'xprof>=2.24,<3' (the extra `profile`)"

CONTAINERS = {"while", "conditional", "call"}
"""Opcodes of operations that contain others."""

# A GPU's trace has columns for what a CPU's trace has in the arguments of an event.
_QUERY = r"""
    SELECT
        device,
        kernel_name AS name,
        coalesce(hlo_op, nullif(regexp_extract(trace_args, '\bhlo_op=([^,]*)', 1), '')) AS op,
        coalesce(
            hlo_module,
            nullif(regexp_extract(trace_args, '\bhlo_module=([^,]*)', 1), '')
                || '(' || regexp_extract(trace_args, '\bprogram_id=(\d+)', 1) || ')'
        ) AS module,
        tf_op_name AS tensorflow_op,
        start_ns,
        end_ns
    FROM read_parquet($path)
    WHERE end_ns > start_ns AND NOT starts_with(kernel_name, 'end: ')
        -- On a GPU only the streams: other lines ("XLA Ops") show the same time again.
        AND (starts_with(device, 'cpu') OR category = 'device')
    ORDER BY start_ns, end_ns DESC
"""


class ConversionError(Exception):
    """Raised when xprof cannot read a trace; the message quotes xprof's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that took time, on a thread or a device."""

    device: str
    """xprof's name of the device, such as `gpu:0`, or `cpu:0` for the host."""
    name: str
    op: str | None
    """The operation of a compiled program, if the event is one."""
    module: str | None
    """The compiled program."""
    tensorflow_op: str | None
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The content of a captured profile."""

    events: tuple[Event, ...]
    """The events, sorted by their start."""
    operations: dict[tuple[str, str], str | None]
    """TensorFlow's scopes and name of each operation, by compiled program and XLA's name; for one
    without them, those of the operation that uses it, or "". None for one that contains others."""


def is_readable() -> bool:
    """Returns whether xprof is installed, which reads a trace; capturing one does not need it."""
    return importlib.util.find_spec("xprof") is not None


def read(path: Path) -> Trace:
    """Returns the trace in the file at `path`, `.../plugins/profile/TIME/HOST.xplane.pb`.

    Raises:
        ConversionError: when xprof cannot read it.
    """
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(path)],
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
    return Trace(events=tuple(events), operations=_operations(path.parent))


def _operations(folder: Path) -> dict[tuple[str, str], str | None]:
    """Returns the operations of the programs that xprof extracted from the trace."""
    from tensorflow.compiler.xla.service import hlo_pb2

    found: dict[tuple[str, str], str | None] = {}
    for file in folder.glob("*.hlo_proto.pb"):
        proto = hlo_pb2.HloProto.FromString(file.read_bytes())
        module = file.name.removesuffix(".hlo_proto.pb")
        for computation in proto.hlo_module.computations:
            # What XLA adds (copies, halves of reductions) has no scopes, and takes those of the
            # instruction that uses it. Users come after what they use.
            inherited: dict[int, str] = {}
            for instruction in reversed(computation.instructions):
                path = instruction.metadata.op_name or inherited.get(instruction.id, "")
                known = None if instruction.opcode in CONTAINERS else path
                found[module, instruction.name] = known
                # Events of a GPU name the program without the number at its end.
                found.setdefault((module.rpartition("(")[0], instruction.name), known)
                if path:
                    for operand in instruction.operand_ids:
                        inherited.setdefault(operand, path)
    return found


def _convert(path: Path) -> dict[str, Any]:
    """Returns the events; xprof also leaves the compiled programs (`*.hlo_proto.pb`) beside the
    trace, as it does when TensorBoard opens it."""
    import duckdb
    from xprof.convert import raw_to_tool_data
    from xprof.convert.events_db.python.pywrap_events_db_c_api import xspace_to_parquet

    raw_to_tool_data.xspace_to_tool_names([str(path)])
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "events.parquet"
        xspace_to_parquet(input_path=path, output_path=table)
        with duckdb.connect() as database:
            found = database.execute(_QUERY, {"path": str(table)})
            columns = [column[0] for column in found.description]
            rows = found.fetchall()
    return {"columns": columns, "rows": rows}


if __name__ == "__main__":
    json.dump(_convert(Path(sys.argv[1])), sys.stdout)
