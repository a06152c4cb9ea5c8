"""`harness launch`: starts several workers that train together."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from harness.base.checks import require, require_count
from harness.base.errors import InputError
from harness.base.reading import opened
from harness.cli.settings import TrainConfig
from harness.workers.launcher import Place, local_places, reachable, remote_places, run_job

_MAX_BYTES = 1_000_000
"""The most bytes to read of the file of hosts."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Start several workers that train one model: `harness launch --workers 4 -- train ...`. Their
    output is merged, each line behind the worker's number. When one fails, all end. See
    docs/clusters.md."""

    command: tyro.conf.Positional[tuple[str, ...]] = ()
    """The workers' command, behind `--`: `train` and its options."""

    workers: int | None = None
    """How many workers. Left out: one for each line of --hosts, or 2."""

    hosts: str | None = None
    """File that names a host on each line, as NAME or NAME:PORT, for a worker each, the chief
    first. The workers are started by ssh, in a folder of the same path and with the same Python.
    Left out: all run on this machine."""

    restarts: int = 0
    """How often to start again, with --resume auto, after a worker failed; with --hosts, on the
    hosts that ssh can still reach. After wrong input or a request to stop, nothing starts again."""

    def __post_init__(self) -> None:
        require_count("--restarts", self.restarts, least=0)
        if self.workers is not None:
            require_count("--workers", self.workers)


def split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Returns the arguments before the first `--`, and the workers' command, which follows it."""
    if "--" not in arguments:
        return list(arguments), ()
    at = list(arguments).index("--")
    return list(arguments[:at]), tuple(arguments[at + 1 :])


def launch(config: LaunchConfig, *, parse: Callable[[list[str]], Any]) -> int:
    """Runs the command.

    Args:
        config: the settings.
        parse: parses the workers' arguments to their settings.

    Returns:
        The exit code of the worker that failed first, or 128 + the number of the signal that ended
        it; 0 if none failed.

    Raises:
        InputError: when the workers' command is not `train`, or the command or the hosts are wrong.
    """
    require(
        config.command[:1] == ("train",),
        "launch starts train alone; give its options behind --, as in: harness launch --workers 2 "
        "-- train --data FILE",
    )
    try:
        settings = parse(list(config.command))
    except SystemExit as parsed:  # after --help, or a message about a flag
        return int(parsed.code or 0)
    assert isinstance(settings, TrainConfig)
    require(
        config.restarts == 0 or settings.output.run_dir not in (None, "auto"),
        "--restarts needs the --run-dir of train: the folder to go on with",
    )
    places = _places(config)

    def command(start: int) -> list[str]:
        given = list(config.command)
        if start > 0:
            given = [*without_resume(given), "--resume", "auto"]
        return [sys.executable, "-m", "harness", *given]

    return run_job(places, command, restarts=config.restarts, out=sys.stdout, errors=sys.stderr)


def without_resume(words: Sequence[str]) -> list[str]:
    """Returns the words of a command without --overwrite, and without --resume and its value."""
    left: list[str] = []
    behind_resume = False
    for word in words:
        if not (
            word in ("--overwrite", "--resume", "--resume=auto")
            or (behind_resume and word == "auto")
        ):
            left.append(word)
        behind_resume = word == "--resume"
    return left


def _places(config: LaunchConfig) -> Callable[[], Sequence[Place]]:
    """Returns a function that returns, before each start, the places where the workers run."""
    if config.hosts is None:
        return lambda: local_places(config.workers or 2)
    with opened(config.hosts, remedy="Name a file with a host on each line.") as file:
        lines = file.read(_MAX_BYTES).decode(errors="replace").splitlines()
    places = remote_places(lines, config.workers)
    require(len(places) > 0, f"--hosts {config.hosts} names no host; name one on each line")
    starts = 0

    def left() -> Sequence[Place]:
        nonlocal starts
        starts += 1
        found = places if starts == 1 else reachable(places)
        if not found:
            raise InputError(
                f"none of the hosts in {config.hosts} can be reached by ssh any more; start them"
            )
        return found

    return left
