"""A program of its own: what xprof's converters make of a trace, as JSON on standard output.

    python -P convert.py HOST.xplane.pb

Apart from the process that trains: xprof's libraries export the same C++ symbols as TensorFlow's,
and loaded beside them would call into those (2.24 then never returns). It imports nothing of the
harness, so that it can be run by its path.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

# What a trace has on CPU as arguments of an event are columns of their own on GPU.
_QUERY = r"""
    SELECT
        device,
        thread_name AS thread,
        kernel_name AS name,
        coalesce(hlo_op, nullif(regexp_extract(trace_args, '\bhlo_op=([^,]*)', 1), '')) AS op,
        coalesce(
            hlo_module,
            nullif(regexp_extract(trace_args, '\bhlo_module=([^,]*)', 1), '')
                || '(' || regexp_extract(trace_args, '\bprogram_id=(\d+)', 1) || ')'
        ) AS module,
        tf_op_name AS tensorflow_op,
        tf_op_type AS tensorflow_type,
        start_ns,
        end_ns
    FROM read_parquet($path)
    WHERE end_ns > start_ns AND NOT starts_with(kernel_name, 'end: ')
    ORDER BY start_ns, end_ns DESC
"""


def converted(path: Path) -> dict[str, Any]:
    """The events of the trace, and the step table of TensorBoard's overview page.

    Beside the trace xprof leaves the compiled programs of it (`*.hlo_proto.pb`), as it does when
    TensorBoard opens it.
    """
    import duckdb
    from xprof.convert import raw_to_tool_data
    from xprof.convert.events_db.python.pywrap_events_db_c_api import xspace_to_parquet

    raw_to_tool_data.xspace_to_tool_names([str(path)])
    overview, _ = raw_to_tool_data.xspace_to_tool_data(
        [str(path)], "overview_page", {"use_saved_result": False}
    )
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "events.parquet"
        xspace_to_parquet(input_path=path, output_path=table)
        with duckdb.connect() as database:
            found = database.execute(_QUERY, {"path": str(table)})
            columns = [column[0] for column in found.description]
            rows = found.fetchall()
    return {"overview": json.loads(overview or "[]"), "columns": columns, "rows": rows}


if __name__ == "__main__":
    json.dump(converted(Path(sys.argv[1])), sys.stdout)
