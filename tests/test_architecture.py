"""The rooms of the house, the arrows between them, and the rules that hold for every file.

Data flows down the table of rooms below; imports point only up it. The imports are read from the
syntax tree, so those inside functions and under TYPE_CHECKING count as well.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 700
DRAWER_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
STANDARD_LIBRARY = sys.stdlib_module_names | {"_typeshed"}  # the latter for type checkers alone
RUNTIME_DEPENDENCIES = frozenset(
    {"keras", "numpy", "psutil", "pynvml", "rich", "tensorboard", "tensorflow", "tyro"}
)


@dataclass(frozen=True, kw_only=True)
class Room:
    """A row of the table: its modules, and their imports besides the standard library."""

    name: str
    modules: tuple[str, ...]
    """Module or package names, each with all that is below it."""
    packages: frozenset[str] = frozenset()
    """Installed packages that it may import."""
    late_packages: frozenset[str] = frozenset()
    """Packages that it may import only inside a function."""
    rooms: tuple[str, ...] | None = None
    """The only modules of other rooms that it may import; None: every room above it."""


BASE = ("harness.base", "kernels.cache", "kernels.files")
# In the order in which data flows: one row for each folder. `door` is the __init__ of `harness`,
# what is public.
ROOMS = (
    Room(name="kernels", modules=("kernels",), packages=frozenset({"numpy", "tensorflow"})),
    Room(
        name="base",
        modules=("harness.base",),
        packages=frozenset({"numpy", "rich"}),
        rooms=("kernels.files",),
    ),
    Room(
        name="run",
        modules=("harness.run",),
        packages=frozenset({"numpy", "psutil", "pynvml", "rich", "tensorboard", "tensorflow"}),
        rooms=BASE,
    ),
    Room(
        name="workers",
        modules=("harness.workers",),
        packages=frozenset({"numpy"}),
        late_packages=frozenset({"tensorflow"}),
        rooms=BASE,
    ),
    Room(
        name="data",
        modules=("harness.data",),
        packages=frozenset({"numpy", "pyarrow"}),
        late_packages=frozenset({"tensorflow"}),  # hashes words, as exported models do
        rooms=BASE,
    ),
    Room(name="feed", modules=("harness.feed",), packages=frozenset({"numpy", "tensorflow"})),
    Room(
        name="model",
        modules=("harness.model",),
        packages=frozenset({"h5py", "keras", "numpy", "tensorflow"}),  # the first comes with Keras
        late_packages=frozenset({"onnx"}),  # of the extra `onnx`
    ),
    Room(
        name="task",
        modules=("harness.task",),
        packages=frozenset({"keras", "numpy", "tensorflow"}),
    ),
    Room(
        name="program",
        modules=("harness.program",),
        packages=frozenset({"keras", "numpy", "tensorflow"}),
    ),
    Room(
        name="trainer",
        modules=("harness.trainer",),
        packages=frozenset({"keras", "numpy", "pynvml", "rich", "tensorflow"}),
        late_packages=frozenset({"matplotlib"}),  # of the extra `report`
    ),
    Room(name="door", modules=("harness",)),
    Room(
        name="tools",
        modules=("harness.tools",),
        packages=RUNTIME_DEPENDENCIES,
        # Of the extras `bench`, `report` and `tune`.
        late_packages=frozenset(
            {"jinja2", "markupsafe", "matplotlib", "optuna", "scipy", "sqlalchemy"}
        ),
    ),
    Room(
        name="cli",
        modules=("harness.cli", "harness.__main__"),
        packages=RUNTIME_DEPENDENCIES,
        late_packages=frozenset({"xprof"}),  # TensorBoard's plugin, kept quiet while it is loaded
    ),
    Room(
        name="estimators",
        modules=("harness.sklearn",),
        packages=frozenset({"keras", "numpy", "pyarrow", "scipy", "sklearn"}),
    ),
)


def is_within(module: str, package: str) -> bool:
    # The bare package `harness` is only its __init__: each room below it has a row of its own.
    return module == package or (package != "harness" and module.startswith(f"{package}."))


def room_of(module: str) -> Room | None:
    """Returns the room with the longest name that is the module or a package around it."""
    named = [(len(m), room) for room in ROOMS for m in room.modules if is_within(module, m)]
    return max(named, key=lambda pair: pair[0])[1] if named else None


@dataclass(frozen=True)
class Arrow:
    """An imported name."""

    line: int
    target: str
    late: bool
    """Inside a function."""


def arrows(tree: ast.AST, late: bool = False) -> Iterator[Arrow]:
    """Yields everything imported in `tree`, except relative imports, which another test forbids."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from (Arrow(node.lineno, alias.name, late) for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                # `from harness import run` names a room, `from harness.trainer import loop` none.
                for alias in names:
                    member = f"{module}.{alias.name}"
                    is_module = module == "harness" and room_of(member) is not None
                    yield Arrow(node.lineno, member if is_module else module, late)
            case ast.Call(
                func=ast.Attribute(attr="import_module")
                | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Arrow(node.lineno, module, late)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from arrows(node, late or is_function)


def forbidden(importer: Room, arrow: Arrow) -> str | None:
    """Why a module in the room `importer` may not import the arrow's target; None if it may."""
    target = arrow.target
    package = target.partition(".")[0]
    if package not in ("harness", "kernels"):
        if package in STANDARD_LIBRARY or package in importer.packages:
            return None
        if package in importer.late_packages:
            return None if arrow.late else f"{importer.name}: import {package} inside the function"
        allowed = ", ".join(sorted(importer.packages)) or "none"
        return f"{importer.name} may not import the package {package} (allowed: {allowed})"
    room = room_of(target)
    if room is None:
        return f"{target} is in no room"
    if room is importer:
        return None
    if importer.rooms is not None:
        if any(is_within(target, module) for module in importer.rooms):
            return None
        allowed = ", ".join(importer.rooms) or "no other room"
        return f"{importer.name} may not import {target} (allowed: {allowed})"
    if ROOMS.index(room) > ROOMS.index(importer):
        return f"{importer.name} imports {target}, a room below it"
    return None


def import_violations(root: Path) -> list[str]:
    """Returns every forbidden arrow in the `harness` and `kernels` under `root`, one line each."""
    found = []
    for path in sorted([*root.glob("harness/**/*.py"), *root.glob("kernels/**/*.py")]):
        relative = path.relative_to(root)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        room = room_of(module)
        if room is None:
            found.append(
                f"{relative}: belongs to no room; put it into one, or add a row to the table"
            )
            continue
        tree = ast.parse(path.read_text(), filename=str(relative))
        found += [
            f"{relative}:{arrow.line}: {why}"
            for arrow in arrows(tree)
            if (why := forbidden(room, arrow))
        ]
    return found


def source_files(*patterns: str) -> list[Path]:
    folders = ("harness", "kernels", "tests", "benchmarks", "scripts")
    return sorted(
        path
        for folder in folders
        for pattern in patterns
        for path in (PROJECT_ROOT / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    )


def report(lines: list[str]) -> str:
    return "\n" + "\n".join(lines)


def test_imports_point_up_the_table() -> None:
    violations = import_violations(PROJECT_ROOT)
    assert not violations, report(violations)


def test_the_table_names_what_is_there() -> None:
    """The name of a missing room or package would permit whatever is later put there."""
    for module in (module for room in ROOMS for module in (*room.modules, *(room.rooms or ()))):
        path = PROJECT_ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def test_a_forbidden_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/a.py").write_text("def f():\n    from harness.base import errors")
    assert "a room below it" in "".join(import_violations(tmp_path))


def test_no_file_is_too_long() -> None:
    entry_points = [path for path in (PROJECT_ROOT / "scripts").iterdir() if path.is_file()]
    paths = {*source_files("*.py", "*.cc", "*.cu", "*.h"), *entry_points}
    lengths = {path: len(path.read_bytes().splitlines()) for path in paths}
    too_long = [
        f"{path.relative_to(PROJECT_ROOT)}: {length} lines, at most {MAX_LINES}"
        for path, length in sorted(lengths.items())
        if length > MAX_LINES
    ]
    assert not too_long, report(too_long)


def test_no_file_is_a_drawer() -> None:
    drawers = [
        str(path.relative_to(PROJECT_ROOT))
        for path in source_files("*.py")
        if DRAWER_NAMES & set(path.relative_to(PROJECT_ROOT).with_suffix("").parts)
    ]
    assert not drawers, report(drawers)
