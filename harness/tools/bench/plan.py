"""What a benchmark measures: the sides of a comparison, the cells of a grid, their order."""

import datetime
import itertools
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.base.checks import require
from harness.base.child import OWN_CODE
from harness.base.decoding import flattened
from harness.base.errors import InputError
from harness.base.reading import read_toml
from harness.run.machine import host, versions
from harness.tools.bench.measure import MODULE, Side
from harness.tools.bench.results import AXES, Cell


def find_baseline(against: str, *, scratch: Path) -> Side:
    """Returns the side that `--against` names: the root folder of a checkout, a TOML file of the
    settings that override the flags, or a git revision, whose code is unpacked into `scratch`."""
    path = Path(against)
    if path.is_file() or path.suffix == ".toml":
        return Side(name="A", settings=flattened(read_toml(path), where=against))
    code = path.absolute()
    if not path.is_dir():
        try:
            # An exported tree: the user's own checkout stays as it is.
            name = f"{against}^{{commit}}"
            commit = _git("rev-parse", "--verify", "--end-of-options", name)
            _git("archive", "--format=zip", f"--output={scratch / 'code.zip'}", commit)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise InputError(
                f"--against is {against!r}, which is no folder, file or revision; name the root "
                "folder of a checkout, a TOML file of settings, or a git revision of this program"
            ) from error
        code = scratch / commit
        shutil.unpack_archive(scratch / "code.zip", code)
    require(
        code.joinpath(*MODULE.split(".")).with_suffix(".py").is_file(),
        f"{code} has no {MODULE}: it is not a version of this project, or one older than "
        "`harness bench`; name another",
    )
    return Side(name="A", code=code)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(OWN_CODE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def settings_of_words(words: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of `--against-set name=value ...`; values as in TOML, or plain text."""
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        require(
            name != "" and equals != "",
            f"--against-set has {word!r}; write name=value, as in implementation=gather",
        )
        try:
            settings[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name] = value
    return flattened(settings)


def cells(grid: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Returns every combination of the values on the axes, the last axis changing fastest."""
    for axis in AXES:
        flag = f"--{axis.replace('_', '-')}"
        require(len(grid[axis]) > 0, f"{flag} is empty; name at least one value")
    points = itertools.product(*(grid[axis] for axis in AXES))
    return tuple(dict.fromkeys(Cell(**dict(zip(AXES, point, strict=True))) for point in points))


def provenance() -> dict[str, Any]:
    """Returns the fields of `Results` that say where its figures come from."""
    machine = host()
    try:
        commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (FileNotFoundError, subprocess.CalledProcessError):
        commit = "unknown"  # an installed package has no repository
    return {
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "versions": versions() | {"system": machine["system"], "commit": commit},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
