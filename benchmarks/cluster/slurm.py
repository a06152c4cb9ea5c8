"""A real SLURM on this machine: a controller and four nodes, node1, node2, node9 and node10.

Each node is a slurmd with a loopback address of its own. Everything lies in one folder, and ends
with the context. It needs root, and the packages slurm-wlm and munge.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NODES = (1, 2, 9, 10)
_HERE = Path(__file__).resolve().parent


def is_possible() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("munged", "slurmctld", "slurmd", "srun")))


class Slurm:
    """The daemons, and jobs of docs/slurm.sh on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = _HERE.parents[1] / "docs" / "slurm.sh"
        self._daemons: list[subprocess.Popen[bytes]] = []
        host = socket.gethostname()
        nodes = [
            f"NodeName=node{n} NodeHostname={host} NodeAddr=127.0.1.{n} Port={26900 + n} CPUs=8"
            for n in NODES
        ]
        for name in ("state", "home", "bin", *(f"node{n}" for n in NODES)):
            (folder / name).mkdir()
        config = (_HERE / "slurm.conf").read_text()
        config = config.format(folder=folder, host=host, nodes="\n".join(nodes))
        (folder / "slurm.conf").write_text(config)
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        names = "".join(f"127.0.1.{n} node{n}\n" for n in NODES)
        (folder / "hosts").write_text(Path("/etc/hosts").read_text() + names)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o600)
        (folder / "bin" / "harness").symlink_to(_HERE / "harness.sh")
        self._environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
        }

    def __enter__(self) -> "Slurm":
        key = f"--key-file={self.folder}/munge.key"
        names = ("socket", "pid-file", "log-file", "seed-file")
        own = [f"--{name}={self.folder}/munge.{name.partition('-')[0]}" for name in names]
        self._start("munged", "--foreground", "--force", key, *own)
        self._start("slurmctld", "-D", "-c")
        for n in NODES:
            self._start("slurmd", "-D", "-N", f"node{n}")
        self.wait_for(lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D") == "4", 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.call("scancel", "--user=root")
        time.sleep(3)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            daemon.wait(30)

    def call(self, *command: str, check: bool = False) -> str:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=check
        )
        return done.stdout.strip()

    def submit(self, name: str, *options: str, training: tuple[str, ...], nodes: int = 2) -> str:
        """Submits docs/slurm.sh for small CPUs; returns the job's number."""
        return self.call(
            *("sbatch", "--parsable", f"--job-name={name}", f"--output={self.folder}/{name}.out"),
            *(f"--nodes={nodes}", "--gpus-per-node=0", "--cpus-per-task=1", *options),
            *(str(self.script), *training),
            check=True,
        )

    def facts(self, job: str) -> dict[str, str]:
        """Returns what SLURM says of a job."""
        text = self.call("scontrol", "--oneliner", "show", "job", job)
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def wait_for(self, found: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not found():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s")
            time.sleep(0.5)

    def wait_for_end(self, job: str, seconds: float = 900) -> dict[str, str]:
        running = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")
        self.wait_for(lambda: self.facts(job)["JobState"] not in running, seconds)
        return self.facts(job)

    def orphans(self) -> list[str]:
        """Returns the command lines of trainings that still run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "harness train" in line and str(self.folder) in line:
                found.append(line[:200])
        return found

    def _start(self, *command: str) -> None:
        # The nodes' names are known to the daemons and their jobs alone.
        mounted = f"mount --bind {self.folder}/hosts /etc/hosts && exec "
        log = (self.folder / f"daemon-{len(self._daemons)}.log").open("wb")
        self._daemons.append(
            subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", f'{mounted} "$@"', "_", *command],
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )
