"""A trace of the CPU rewritten as a GPU's: the operations lie on streams, as CUPTI records them."""

from pathlib import Path
from typing import Any

from tensorflow.tsl.profiler.protobuf import xplane_pb2

from harness.run.profiling.step_times import RUN_OTHERS

_DERIVED = 0xDEADBEEF - 2**32
"""xla/tsl/profiler/utils/trace_utils.h: the first id of a line that is derived from others."""


class _Names:
    """Numbers for the names in a plane's table of metadata."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def number(self, name: str) -> int:
        number = next((n for n, entry in self._table.items() if entry.name == name), None)
        if number is None:
            number = len(self._table) + 1
            self._table[number].id, self._table[number].name = number, name
        return number


def write_as_of_gpu(source: Path, target: Path) -> None:
    """Moves what XLA ran from the host's threads in `source` to streams of a GPU in `target`.

    Beside the streams stand the lines that xprof derives from them, which show the same time again.
    """
    space = xplane_pb2.XSpace.FromString(source.read_bytes())
    host = next(plane for plane in space.planes if plane.name == "/host:CPU")
    gpu = space.planes.add(id=1, name="/device:GPU:0")
    stats, events = _Names(gpu.stat_metadata), _Names(gpu.event_metadata)
    derived = [
        gpu.lines.add(id=_DERIVED + number, name=name, timestamp_ns=host.lines[0].timestamp_ns)
        for number, name in ((4, "XLA Modules"), (5, "XLA Ops"))
    ]
    for index, thread in enumerate(host.lines):
        stream = gpu.lines.add(
            id=14 + index, name=f"Stream #{14 + index}(Kernel)", timestamp_ns=thread.timestamp_ns
        )
        left = []
        for event in thread.events:
            told = {host.stat_metadata[stat.metadata_id].name: stat for stat in event.stats}
            if "hlo_op" not in told:
                left.append(event)
                continue
            operation = host.stat_metadata[told["hlo_op"].ref_value].name
            if operation.split(".")[0] in RUN_OTHERS:
                continue  # no kernel
            kernel = stream.events.add(
                metadata_id=events.number("kernel"),
                offset_ps=event.offset_ps,
                duration_ps=event.duration_ps,
            )
            for name in ("hlo_op", "hlo_module"):
                value = host.stat_metadata[told[name].ref_value].name
                kernel.stats.add(metadata_id=stats.number(name), ref_value=stats.number(value))
            kernel.stats.add(
                metadata_id=stats.number("program_id"), int64_value=told["program_id"].int64_value
            )
            later_ps = 1000 * (thread.timestamp_ns - host.lines[0].timestamp_ns)
            for line in derived:
                line.events.add(
                    metadata_id=events.number(operation),
                    offset_ps=event.offset_ps + later_ps,
                    duration_ps=event.duration_ps,
                )
        del thread.events[:]
        thread.events.extend(left)
    target.parent.mkdir(parents=True)
    target.write_bytes(space.SerializeToString())
