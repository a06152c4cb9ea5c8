"""Files that are whole or absent, on disks that run full in earnest."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.files import json_text, remove_partial_files, replacing, write_json

# A real limit of the kernel's in a process of its own: a write past it fails as on a full disk.
LIMITED = """
import resource, sys
from pathlib import Path
from harness.files import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    write_json(Path(sys.argv[1]), {"rows": list(range(5000))})
except OSError as error:
    print(error)
else:
    sys.exit("nothing failed")
"""


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in ({"a": 1}, {"b": [1.5, None]}):
        write_json(path, content)
        assert json.loads(path.read_text()) == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_suffix_stays_last_while_writing(tmp_path: Path) -> None:
    with replacing(tmp_path / "model.keras") as beside:
        assert (beside.parent, beside.suffix) == (tmp_path, ".keras")
        beside.write_bytes(b"x")
    assert (tmp_path / "model.keras").read_bytes() == b"x"


def test_the_file_is_new_and_as_readable_as_any_other(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as beside, replacing(tmp_path / "a.txt") as other:
        assert beside != other
        assert beside.read_bytes() == other.read_bytes() == b""
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    killed = "import os\nwith replacing(path) as beside: beside.write_text('half'); os.abort()"
    start = "from pathlib import Path\nfrom harness.files import replacing"
    for name in ("events.out.tfevents.1.host.2.v2", "a.json"):
        script = f"{start}\npath = Path({str(tmp_path / name)!r})\n{killed}"
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode < 0
    left = [path.name for path in tmp_path.iterdir()]
    assert sorted(Path(name).suffix for name in left) == [".json", ".v2"]
    assert not [name for name in left if "tfevents" in name], "TensorBoard would read it"
    (tmp_path / ".mine.json").touch()
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == [".mine.json"]


@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(RuntimeError), replacing(path) as beside:  # noqa: PT012 - written, then fails
        beside.write_text("half")
        raise RuntimeError
    left = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert left == ({} if before is None else {"a.txt": before})


@pytest.mark.parametrize("before", [None, '{"old": 1}'])
def test_a_full_disk_leaves_no_half_file_and_names_the_path(
    tmp_path: Path, before: str | None
) -> None:
    path = tmp_path / "a.json"
    if before is not None:
        path.write_text(before)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    left = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert left == ({} if before is None else {"a.json": before})


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_json(tmp_path / "nowhere" / "a.json", {})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_floats_read_back_exactly(value: float) -> None:
    assert json.loads(json_text({"x": value}))["x"].hex() == value.hex()


def test_floats_that_json_lacks_are_named() -> None:
    text = json_text({"a": (math.nan, [math.inf]), "b": {"c": -math.inf}, "d": 1})
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"a": ["NaN", ["Infinity"]], "b": {"c": "-Infinity"}, "d": 1}
    assert math.isnan(float(strict["a"][0]))
    assert float(strict["b"]["c"]) == -math.inf
