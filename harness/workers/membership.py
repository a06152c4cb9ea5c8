"""This process's cluster and its place in it, read from TF_CONFIG, mpirun or SLURM."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from harness.base.checks import require
from harness.base.errors import InputError

CHIEF = "HARNESS_CLUSTER_CHIEF"  # variable with the address `name:port` of worker 0
TOKEN = "HARNESS_CLUSTER_TOKEN"  # variable with the secret that all workers of a job share
# Variables with a process's number and the number of processes. mpirun may run under srun.
_RANKS_AND_SIZES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_FIRST_PORT, _PORTS = 16_384, 16_000  # ports of chiefs, below those that the system gives out
_ADDRESS = re.compile(
    r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,63}\.?)"
    r":0*([1-9][0-9]{0,4})"
)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The workers of a cluster, and this process's number among them."""

    # Addresses `name:port` of the workers, the chief first; those not known are empty.
    hosts: tuple[str, ...] = ("",)
    index: int = 0  # number of this process's worker
    chief: tuple[str, ...] = ()  # possible addresses of the chief, in the order to try them
    job: str = ""  # name of the job and step, which distinguishes jobs that share a token
    token: str = ""

    @property
    def num_workers(self) -> int:
        return len(self.hosts)

    @property
    def on_this_host(self) -> tuple[int, int]:
        """Number of workers before this one on its host, and number of all workers on it."""
        names = [host.rpartition(":")[0] for host in self.hosts]
        own = names[self.index]
        return names[: self.index].count(own), names.count(own)

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def name(self, index: int) -> str:
        host = "".join(self.hosts[index : index + 1])  # none if that worker has a longer list
        return f"worker {index} ({host})" if host else f"worker {index}"


def address(text: str) -> tuple[str, int]:
    name, _, port = text.rpartition(":")
    return name.strip("[]"), int(port)


def _is_address(text: str) -> bool:
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found[1]) < 2**16


def membership(environment: Mapping[str, str]) -> Membership:
    """Returns this process's membership from `TF_CONFIG`, else from the variables of mpirun or
    srun; without any of these, that of a single worker."""
    token = environment.get(TOKEN, "")
    if config := environment.get("TF_CONFIG"):
        hosts, index = _of_tf_config(config)
        return Membership(hosts=hosts, index=index, chief=hosts[:1], token=token)
    for names in _RANKS_AND_SIZES:
        given = [environment.get(name, "") for name in names]
        if all(given) and given[1] != "1":
            rank, size = (int(each) if re.fullmatch("[0-9]{1,5}", each) else -1 for each in given)
            require(
                0 <= rank < size,
                " and ".join(f"{names[i]} is '{given[i]:.50}'" for i in range(2))
                + ", which is no place among workers; start them with one srun or mpirun",
            )
            by_srun = environment.get("SLURM_STEP_NUM_TASKS") == str(size)
            step = environment.get("SLURM_STEP_ID", "") if by_srun else ""
            job = f"{environment.get('SLURM_JOB_ID', '')}.{step}"
            chief = _chief(environment, seed=f"{job} {token}")
            return Membership(hosts=("",) * size, index=rank, chief=chief, job=job, token=token)
    tasks = environment.get("SLURM_NTASKS", "1")
    require(
        not environment.get("SLURM_PROCID")
        or bool(environment.get("SLURM_STEP_NUM_TASKS"))
        or tasks == "1",
        f"the SLURM job is for {tasks:.20} tasks, and this process is none of them; start them "
        "with srun, or one task alone with srun --ntasks=1",
    )
    return Membership()


def require_alone(environment: Mapping[str, str]) -> None:
    """Raises an InputError if there are several workers, since each would do all the work."""
    workers = membership(environment).num_workers
    require(
        workers == 1,
        f"TF_CONFIG, mpirun or SLURM names {workers} workers, which only train together; unset "
        "TF_CONFIG, or start one task, as with srun --ntasks=1",
    )


def _of_tf_config(text: str) -> tuple[tuple[str, ...], int]:
    def wrong(why: str) -> InputError:
        return InputError(f"TF_CONFIG is '{text:.200}', {why}; unset it, or see docs/clusters.md")

    try:
        config: Any = json.loads(text)
        jobs = {job: list(hosts) for job, hosts in config.get("cluster", {}).items() if hosts}
        task = config.get("task", {})
        kind, index = str(task.get("type", "worker")), int(str(task.get("index", 0)))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise wrong("which is no cluster") from error
    if sum(map(len, jobs.values())) <= 1:
        return ("",), 0
    if others := sorted(jobs.keys() - {"chief", "worker"}):
        raise wrong(f"whose jobs {', '.join(others)} have nothing to do here: name workers alone")
    hosts = [*jobs.get("chief", []), *jobs.get("worker", [])]
    if not all(isinstance(host, str) and _is_address(host) for host in hosts):
        raise wrong("whose workers are not all of the form name:port")
    if len(set(hosts)) < len(hosts) or len(jobs.get("chief", [])) > 1:
        raise wrong("which names one worker twice, or two chiefs")
    if kind not in jobs or not 0 <= index < len(jobs[kind]):
        raise wrong(f"whose task '{kind} {index}' is not in the cluster")
    before = len(jobs.get("chief", [])) if kind == "worker" else 0
    return tuple(hosts), before + index


def _chief(environment: Mapping[str, str], *, seed: str) -> tuple[str, ...]:
    """Returns the addresses at which the first task may be: its host's names as the variables give
    them, with a port that follows from the seed."""
    if given := environment.get(CHIEF):
        remedy = "the host of worker 0 and a free port, as in node1:23456"
        require(_is_address(given), f"{CHIEF} is '{given:.100}'; give {remedy}")
        return (given,)
    names = [
        _first_node(environment.get("SLURM_STEP_NODELIST", "")),
        # Where srun or mpirun was called, which in a batch script is the first node.
        environment.get("SLURM_LAUNCH_NODE_IPADDR", ""),
        _first_node(environment.get("SLURM_JOB_NODELIST", "")),
    ]
    port = _FIRST_PORT + zlib.crc32(seed.encode(errors="surrogateescape")) % _PORTS
    known = dict.fromkeys(filter(None, names)) or ["localhost"]
    return tuple(joined(name, port) for name in known)


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_ip(host: str) -> str:
    """Returns an IP address without its zone; an IPv4 address mapped to IPv6 becomes IPv4."""
    ip = ip_address(host.partition("%")[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def _first_node(nodes: str) -> str:
    """Returns the first name in a list in SLURM's notation, such as `rack[1-2]n[08-15],login`."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""
