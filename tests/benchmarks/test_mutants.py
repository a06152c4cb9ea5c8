"""Mutants of a small file, and what its tests say of them."""

import functools
from pathlib import Path

import pytest

from benchmarks.mutants import judged, mutants_of, passes, room_of, suites_of

SOURCE = '''
def é(a, b=2, *, flag=True):
    """1 + 1"""
    if not a < b and flag:
        return a  # early
    a += f"{a + 1}" + "x"
    return a is None
'''
CHANGES = {
    "2: 2 -> 3",
    "2: 2 -> 1",
    "2: True -> False",
    "4: not a < b and flag -> not a < b or flag",
    "4: not a < b -> a < b",
    "4: a < b -> a <= b",
    "5: return a -> pass",
    "6: a += f'{a + 1}' + 'x' -> a -= f'{a + 1}' + 'x'",
    "6: f'{a + 1}' + 'x' -> f'{a + 1}' - 'x'",
    "7: a is None -> a is not None",
}


def test_a_file_has_a_mutant_for_each_place(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    found = list(mutants_of(Path("a.py"), tmp_path))
    assert {" ".join(one.change.removeprefix("a.py:").split("  ")) for one in found} == {
        change.replace(":", "", 1) for change in CHANGES
    }
    for one in found:
        compile(one.content, "a.py", "exec")
        assert one.content.count(b"\n") == SOURCE.count("\n"), "it changes one line"


@pytest.mark.parametrize(
    ("path", "room", "first", "other"),
    [
        ("harness/sklearn.py", "harness", "harness/test_sklearn.py", None),
        (
            "harness/run/telemetry/nvml.py",
            "run",
            "harness/run/telemetry/test_nvml.py",
            "harness/run",
        ),
        ("kernels/cache.py", "kernels", "kernels/test_cache.py", "kernels"),
        ("harness/run/records.py", "run", None, "harness/run"),
    ],
)
def test_the_suites_of_a_file(path: str, room: str, first: str | None, other: str | None) -> None:
    root = Path(__file__).resolve().parents[2]
    assert room_of(Path(path)) == room
    found = suites_of(Path(path), root)
    if first is not None:
        assert found.pop(0) == (Path("tests", first),)
    assert bool(found) == (other is not None)
    for tests in found:
        assert all(Path("tests", other or "") in test.parents for test in tests)
        assert all((root / test).is_file() for test in tests)


def test_what_tests_notice_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    path, mirrored = Path("harness/base/a.py"), Path("tests/harness/base/test_a.py")
    for name, text in {
        "harness/__init__.py": "",
        "harness/base/__init__.py": "",
        path: "x, unnoticed = not 0.0, not 0.0\n",
        mirrored: "def test(): __import__('harness.base.a')\n",
        "tests/harness/base/test_b.py": "from harness.base.a import x\ndef test(): assert x\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    unchanged = functools.cache(functools.partial(passes, tmp_path, 60))
    every = [*mutants_of(path, tmp_path)]
    assert [judged(one, tmp_path, 60, unchanged) for one in every] == ["killed", "survived"]
    (tmp_path / mirrored).write_text("def test(): assert False\n")
    assert judged(every[0], tmp_path, 60, lambda tests: passes(tmp_path, 60, tests)) == "undecided"
    assert (tmp_path / path).read_text() == "x, unnoticed = not 0.0, not 0.0\n"
