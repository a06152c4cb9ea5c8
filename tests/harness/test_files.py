"""Files that are whole or absent, on disks that run full in earnest."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.files import json_text, replacing, write_json

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
