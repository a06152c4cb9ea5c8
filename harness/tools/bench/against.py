"""What a comparison compares with: another version of the code, or other settings."""

import contextlib
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.base.child import OWN_CODE
from harness.base.decoding import flattened
from harness.base.errors import InputError
from harness.base.reading import read_toml
from harness.tools.bench.process import MODULE


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: what it trains, and the version of the code that does."""

    settings: Mapping[str, Any]
    """The settings of this side, by their names without group."""
    code: Path = OWN_CODE
    """The root folder of the version."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """`code_state` of that version, for the record."""


def find_baseline(
    against: str | None, words: tuple[str, ...], *, scratch: Path
) -> tuple[Side, str | None]:
    """Finds side A of a comparison, with only the settings that override those of the flags: from
    --against, or where that is None from the words of --against-set. A revision is unpacked into
    `scratch`, an empty folder. Returns the side, and `against` for the record, a revision replaced
    by its commit. Raises InputError when it is none of these, or a word has no `=`."""
    path = Path(against or "")
    if against is None or path.is_file() or path.suffix == ".toml":
        settings = settings_of_words(words)
        if against is not None:
            settings = flattened(read_toml(path), where=against)
        return Side(settings=settings, state=code_state(OWN_CODE)), against
    code, state = path.absolute(), code_state(path)
    if not path.is_dir():
        try:
            name = f"{against}^{{commit}}"
            commit = _git(OWN_CODE, "rev-parse", "--verify", "--end-of-options", name)
            archive = scratch / "code.zip"
            _git(OWN_CODE, "archive", "--format=zip", f"--output={archive}", commit)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise InputError(
                f"--against is {against!r}, which is not a folder, a file, or a git revision of "
                "this program; name the root folder of a checkout, a TOML file of settings, or a "
                "revision"
            ) from error
        code, state, against = scratch / commit, {"commit": commit, "dirty": False}, commit
        shutil.unpack_archive(archive, code)
    if not code.joinpath(*MODULE.split(".")).with_suffix(".py").is_file():
        raise InputError(
            f"{code} has no {MODULE}: it is not a version of this project, or one older than "
            "`harness bench`; name another"
        )
    return Side(settings={}, code=code, state=state), against


def code_state(folder: Path) -> dict[str, Any]:
    """`commit` of the repository that holds `folder`, and `dirty`, whether its files differ from
    it; None where there is no repository, or git is not installed."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def settings_of_words(words: tuple[str, ...]) -> dict[str, Any]:
    """The settings of `--against-set name=value ...`; values as in TOML, or plain text."""
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(
                f"--against-set has {word!r}; write name=value, as in implementation=gather"
            )
        with contextlib.suppress(tomllib.TOMLDecodeError):  # plain text stays as it is
            value = tomllib.loads(f"value = {value}")["value"]
        settings[name.replace("-", "_")] = value
    return settings
