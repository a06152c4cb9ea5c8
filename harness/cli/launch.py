"""`harness launch`: starts several workers that train together."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from harness.base.checks import Checked, Whole, require
from harness.workers.launcher import enter_own_network, run_job


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(Checked):
    """Start several workers that train one model on this machine: `harness launch --workers 4 --
    train ...`. Their output is merged, each line behind the worker's number. When one fails, all
    end. For several machines see docs/clusters.md."""

    command: tyro.conf.Positional[tuple[str, ...]] = ()
    """The workers' command, behind `--`: `train` and its options."""

    workers: Annotated[int, Whole()] = 2
    """How many workers."""

    open_ports: bool = False
    """Let TensorFlow's servers listen on ports of this machine, where other users and machines can
    reach them and act as you: needed where the system allows no network of its own for the
    workers."""


def launch(config: LaunchConfig, *, parse: Callable[[list[str]], tuple[Any, ...]]) -> int:
    """Returns the exit code of the worker that failed first, or 128 + the number of the signal that
    ended it; 0 if none failed. `parse` turns the workers' arguments into their settings."""
    require(
        config.command[:1] == ("train",),
        "launch starts train alone; give its options behind --, as in: launch -- train --data FILE",
    )
    # Once, before several workers would say the same.
    _, settings, _ = parse(list(config.command))
    if not config.open_ports:
        if settings.data.data == "imdb":
            from harness.data.imdb import imdb_file  # imports NumPy

            imdb_file()  # downloads it; the workers' network reaches no other machine
        sys.stdout.flush()
        sys.stderr.flush()
        # The system moves only processes of one thread, and NumPy has started others in this one.
        own = [sys.executable, "-m", "harness.cli.launch", f"--workers={config.workers}"]
        os.execv(sys.executable, [*own, "--", *config.command])
    command = [sys.executable, "-m", "harness", *config.command]
    return run_job(config.workers, command, out=sys.stdout, errors=sys.stderr)


if __name__ == "__main__":  # `launch` again, which enters a network of its own while it may
    try:
        enter_own_network()
    except OSError as error:
        print(
            "error: the system allows no network of its own for the workers "
            f"({error.strerror}), and whoever reached TensorFlow's ports on this one could act as "
            "you; use one process (--replicas instead of launch), or allow it by --open-ports",
            file=sys.stderr,
        )
        sys.exit(2)
    command = ["-m", "harness", "launch", "--open-ports", *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, *command])
