"""What `harness bench --against` names: another version of the code, or other settings."""

import contextlib
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from harness.bench.measure import Side
from harness.bench.process import require_measurable
from harness.child import OWN_CODE
from harness.decoding import flattened
from harness.errors import InputError
from harness.reading import read_toml


def find_baseline(
    against: str | None, words: tuple[str, ...], *, scratch: Path
) -> tuple[Side, str | None]:
    """Finds side A of a comparison.

    Args:
        against: the root folder of a checkout, a TOML file, or a git revision of this program;
            None where `words` has settings.
        words: of --against-set.
        scratch: an empty folder, into which a revision is unpacked.

    Returns:
        The side, with only the settings that override those of the flags; and `against` for the
        record, a revision replaced by its commit.

    Raises:
        InputError: when it is none of these.
    """
    path = Path(against or "")
    if against is None or path.is_file() or path.suffix == ".toml":
        over = (
            settings_of_words(words)
            if against is None
            else flattened(read_toml(path), where=str(path))
        )
        return Side(settings=over, state=code_state(OWN_CODE)), against
    if path.is_dir():
        require_measurable(path.absolute())
        return Side(settings={}, code=path.absolute(), state=code_state(path)), against
    try:
        name = f"{against}^{{commit}}"
        commit = _git(OWN_CODE, "rev-parse", "--verify", "--end-of-options", name)
        archive = scratch / "code.zip"
        _git(OWN_CODE, "archive", "--format=zip", f"--output={archive}", commit)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"--against is {against!r}, which is not a folder, a file, or a git revision of this "
            "program; name the root folder of a checkout, a TOML file of settings, or a revision"
        ) from error
    shutil.unpack_archive(archive, scratch / commit)
    require_measurable(scratch / commit)
    state = {"commit": commit, "dirty": False}
    return Side(settings={}, code=scratch / commit, state=state), commit


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
    """The settings of `--against-set name=value ...`; values as in TOML, or plain text.

    Raises:
        InputError: when a word has no `=`.
    """
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
