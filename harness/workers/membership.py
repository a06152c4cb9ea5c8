"""This process's cluster and its place in it, from TF_CONFIG or SLURM."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from harness.base.checks import require
from harness.base.errors import InputError

_SLURM_TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
"""Variables with the number of tasks. srun sets both for its step; a batch script has only the
latter, for the job."""
_ANY = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The workers of a cluster, and which of them this process is."""

    hosts: tuple[str, ...] = ("",)
    """Addresses `name:port` of the workers, the chief first."""
    index: int = 0
    """Number of this process's worker."""

    @property
    def num_workers(self) -> int:
        return len(self.hosts)

    @property
    def on_this_host(self) -> tuple[int, int]:
        """Number of workers before this one on its host, and number of the host's workers."""
        names = [host.rpartition(":")[0] for host in self.hosts]
        own = names[self.index]
        return names[: self.index].count(own), names.count(own)

    @property
    def is_chief(self) -> bool:
        return self.index == 0


def membership(environment: Mapping[str, str]) -> Membership:
    """Returns this process's membership from `TF_CONFIG`, else from SLURM, else as a worker alone.

    Raises:
        InputError: if the variables describe no cluster of workers, or no place in it.
    """
    if config := environment.get("TF_CONFIG"):
        return _of_tf_config(config)
    tasks = next((environment[name] for name in _SLURM_TASKS if environment.get(name)), "1")
    if environment.get("SLURM_PROCID") and tasks.isdecimal() and int(tasks) > 1:
        return _of_slurm(int(tasks))
    return Membership()


def require_alone(environment: Mapping[str, str]) -> None:
    """Refuses to run as one of several workers, as each would do all the work."""
    workers = membership(environment).num_workers
    require(
        workers == 1,
        f"TF_CONFIG or SLURM names {workers} workers, which only train together; unset TF_CONFIG, "
        "or start one task, as with srun --ntasks=1",
    )


def _of_tf_config(text: str) -> Membership:
    def wrong(why: str) -> InputError:
        return InputError(f"TF_CONFIG is '{text:.200}', {why}; unset it, or see docs/clusters.md")

    try:
        config = json.loads(text)
        jobs = {job: list(hosts) for job, hosts in config.get("cluster", {}).items() if hosts}
        task = config.get("task", {})
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
    except (ValueError, AttributeError, TypeError) as error:
        raise wrong("which is no cluster") from error
    if sum(map(len, jobs.values())) <= 1:
        return Membership()
    if others := sorted(jobs.keys() - {"chief", "worker"}):
        raise wrong(f"whose jobs {', '.join(others)} have nothing to do here: name workers alone")
    hosts = [*jobs.get("chief", []), *jobs.get("worker", [])]
    if not all(isinstance(host, str) and host.rpartition(":")[2].isdecimal() for host in hosts):
        raise wrong("whose workers are not all of the form name:port")
    if len(set(hosts)) < len(hosts):
        raise wrong("which names one worker twice")
    if kind not in jobs or not 0 <= index < len(jobs[kind]):
        raise wrong(f"whose task '{kind} {index}' is not in the cluster")
    before = len(jobs.get("chief", [])) if kind == "worker" else 0
    return Membership(hosts=tuple(hosts), index=before + index)


def _of_slurm(num_tasks: int) -> Membership:
    import tensorflow as tf

    try:
        # SLURM itself assigns GPUs to tasks. The resolver's own count fails on machines without
        # GPUs; with these numbers it allows any number of tasks.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=_ANY, gpus_per_task=1, auto_set_gpu=False
        )
        hosts = resolver.cluster_spec().as_dict()["worker"]
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"SLURM started {num_tasks} tasks, but its variables do not describe them ({error}); "
            "start them with srun, or one task alone with srun --ntasks=1"
        ) from error
    return Membership(hosts=tuple(hosts), index=int(resolver.task_id))
