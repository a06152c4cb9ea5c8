"""Mutation testing: changes the code in one place, and runs the tests that should notice it.

    python -m benchmarks.mutants --number 300 --seed 1 --room data

Draws mutants of some rooms (a folder of harness/, `harness` for the files beside these, `kernels`)
or of all: another comparison, an integer one higher or lower, `or` for `and`, no `not`, `-` for
`+`, or the reverse; another flag; no early return. In a copy of the tree the mirrored test file
runs, then the room's other ones, first those that name the module. Killed is what fails them, or
keeps them from ending in time; undecided, if they fail without it as well. A survivor needs a test,
if anybody could notice it.
"""

import argparse
import ast
import contextlib
import copy
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
_SWAPS: Any = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}
_SWAPS |= {ast.In: ast.NotIn, ast.And: ast.Or, ast.Add: ast.Sub}
_OTHER = _SWAPS | {other: one for one, other in _SWAPS.items()}
_COPY = "git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "


class Mutant(NamedTuple):
    path: Path  # from the project's root
    change: str
    content: bytes


def room_of(path: Path) -> str:
    return path.parts[1] if path.parts[0] == "harness" and path.parts[2:] else path.parts[0]


def _changed(node: Any, *, is_last: bool) -> Iterator[ast.AST]:
    """Yields what may take the place of a node; `is_last`, it ends the body of a function."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], _OTHER[type(op)](), *ops[i + 1 :]], right)
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OTHER:
            other = copy.copy(node)
            other.op = _OTHER[type(op)]()
            yield other
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=int() as n):  # or a flag
            yield from map(ast.Constant, [n + 1, n - 1] if type(n) is int else [not n])
        case ast.Return() if not is_last:
            yield ast.Pass()


def mutants_of(path: Path, root: Path) -> Iterator[Mutant]:
    """Yields all mutants of a file."""
    content = (root / path).read_bytes()
    nodes: list[Any] = [*ast.walk(ast.parse(content))]
    starts = [0, *itertools.accumulate(map(len, content.splitlines(keepends=True)))]
    last = {node.body[-1] for node in nodes if isinstance(node, ast.FunctionDef)}
    # Places within an f-string are wrong before Python 3.12.
    within = {n for node in nodes if isinstance(node, ast.JoinedStr) for n in ast.walk(node)}
    for node in nodes:
        for other in () if node in within else _changed(node, is_last=node in last):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            # Parentheses, since what stands around may bind tighter.
            new = ast.unparse(other) if isinstance(node, ast.stmt) else f"({ast.unparse(other)})"
            change = f"{path}:{node.lineno}  {ast.unparse(node)}  ->  {ast.unparse(other)}"
            yield Mutant(path, change, content[:begin] + new.encode() + content[end:])


def suites_of(path: Path, root: Path) -> list[tuple[Path, ...]]:
    """Returns a file's mirrored test file, if it has one, and the room's other ones, of which those
    that name its module come first."""
    mirrored, room = Path("tests", path.parent, f"test_{path.name}"), room_of(path)
    folder = root / "tests" / ("" if room == path.parts[0] else path.parts[0]) / room
    found = folder.glob("test_*.py" if room == "harness" else "**/test_*.py")
    module = ".".join(path.with_suffix("").parts)
    others = sorted({file.relative_to(root) for file in found} - {mirrored})
    others.sort(key=lambda file: module not in (root / file).read_text(encoding="utf-8"))
    return [tests for tests in ((mirrored,) * (root / mirrored).is_file(), tuple(others)) if tests]


def passes(root: Path, seconds: float, tests: tuple[Path, ...]) -> bool:
    """Runs test files; returns whether they pass within so many seconds."""
    data = os.environ.get("HARNESS_TEST_DATA", str(_ROOT.parent / "shared" / "data"))
    # No bytecode: Python tells it apart by the size and the second of a change.
    own = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "HARNESS_TEST_DATA": data}
    how: dict[str, Any] = {"cwd": root, "env": os.environ | own, "start_new_session": True}
    how |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Folders of its own: pytest fails if it cannot remove those of others that were killed.
    command = [sys.executable, "-m", "pytest", "-x", f"--basetemp={root}/tmp", *map(str, tests)]
    with subprocess.Popen(command, **how) as process:
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:  # also at Ctrl-C, with all that the tests have started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def judged(mutant: Mutant, root: Path, seconds: float, unchanged: Callable[..., bool]) -> str:
    """Returns the outcome in a copy of the tree; `unchanged` runs the same without a mutant."""
    before = (path := root / mutant.path).read_bytes()
    for tests in suites_of(mutant.path, root):
        path.write_bytes(mutant.content)
        ok = passes(root, seconds, tests)
        path.write_bytes(before)
        if not ok:
            return "killed" if unchanged(tuple(sorted(tests))) else "undecided"
    return "survived"


def main() -> None:
    files = [path.relative_to(_ROOT) for path in sorted(_ROOT.glob("[hk]*/**/*.py"))]
    rooms = sorted({*map(room_of, files)})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=100, help="how many mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--room", nargs="+", choices=rooms, default=rooms)
    parser.add_argument("--seconds", type=float, default=900, help="limit of test files' time")
    given = parser.parse_args()
    found = Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(KeyboardInterrupt):
        subprocess.run(_COPY + place, shell=True, cwd=_ROOT, check=False)
        root, chosen = Path(place), [path for path in files if room_of(path) in given.room]
        every = [mutant for path in chosen for mutant in mutants_of(path, root)]
        random.Random(given.seed).shuffle(every)
        unchanged = functools.cache(functools.partial(passes, root, given.seconds))
        for mutant in every[: given.number]:
            outcome = judged(mutant, root, 2 * given.seconds, unchanged)
            found.update([(room_of(mutant.path), outcome), ("all", outcome)])
            print(f"{outcome:9}  {mutant.change}", flush=True)
    print("\nroom          killed  survived undecided     score")
    for room in [*given.room, "all"]:
        counts = [found[room, outcome] for outcome in ("killed", "survived", "undecided")]
        score = counts[0] / max(1, sum(counts[:2]))
        print(f"{room:10}{counts[0]:10}{counts[1]:10}{counts[2]:10}{score:10.0%}")


if __name__ == "__main__":
    main()
