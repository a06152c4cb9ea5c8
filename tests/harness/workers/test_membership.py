"""The membership of a process, from the variables of its environment."""

import json

import pytest

from harness.base.errors import InputError
from harness.workers.cluster import _wait_seconds
from harness.workers.membership import Membership, address, membership

JOBS = ((7, 0), (7, 1), (8, 0), (70, 0))
WORKERS = ["a:1", "b:1", "c:2"]


def config(cluster: object, kind: object = "worker", index: object = 0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TF_CONFIG": ""},
        {"TF_CONFIG": "{}"},
        config({"worker": ["a:1"]}),
        # A job step of one task; and a batch script, which has no rank in its step.
        {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "4"},
    ],
)
def test_alone(environment: dict[str, str]) -> None:
    member = membership(environment)
    assert (member.num_workers, member.index, member.is_chief) == (1, 0, True)


def test_tf_config_names_workers_and_a_chief() -> None:
    assert membership(config({"worker": WORKERS}, index=2)) == Membership(
        hosts=("a:1", "b:1", "c:2"), index=2, chief=("a:1",)
    )
    both = {"chief": ["z:9"], "worker": WORKERS}
    assert membership(config(both, index=1)) == Membership(
        hosts=("z:9", "a:1", "b:1", "c:2"), index=2, chief=("z:9",)
    )
    assert membership(config(both, kind="chief")).is_chief
    assert not membership(config(both, index=0)).is_chief


SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "node[9-10]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "worker"}, "TF_CONFIG is 'worker', which is no cluster; unset it"),
        ({"TF_CONFIG": "[]"}, r"TF_CONFIG is '\[\]', which is no cluster"),
        ({"TF_CONFIG": "[" * 100_000}, "which is no cluster"),
        (config({"worker": WORKERS, "ps": ["d:1"]}), "whose jobs ps have nothing to do here"),
        *(
            (config({"worker": [host, "b:1"]}), "not all of the form name:port")
            for host in ("a", "a:0", "a:99999", "a:" + "1" * 5000, ":1", "a\0:1", f"{'a' * 64}:1")
        ),
        (config({"worker": ["a:1", "a:1"]}), "names one worker twice"),
        (config({"worker": WORKERS}, index=3), "whose task 'worker 3' is not in the cluster"),
        (config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "or two chiefs"),
        *(
            (config({"worker": WORKERS}, index=index), "which is no cluster")
            for index in (1e400, 0.7, True, [])
        ),
        (config({"worker": WORKERS}, kind=[]), "is not in the cluster"),
        (config({"worker": WORKERS}, kind="chief"), "whose task 'chief 0' is not in the cluster"),
        # A batch script, whose command is not started by srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "is for 2 tasks.*srun --ntasks=1"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "9" * 5000}, "SLURM_STEP_NUM_TASKS is '9999"),
        (SLURM | {"SLURM_PROCID": "3"}, "PROCID is '3' and SLURM_STEP_NUM_TASKS is '3'"),
        (SLURM | {"HARNESS_CLUSTER_CHIEF": "node1"}, "HARNESS_CLUSTER_CHIEF is 'node1'; give"),
    ],
)
def test_no_place_in_a_cluster(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        membership(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[9-10]", "node9"),
        ("gpu[08-15],login", "gpu08"),
        ("r[1-2]n[3,5]", "r1n3"),
        ("b,a", "b"),
    ],
)
def test_slurm_names_the_chiefs_host_in_its_own_order(nodes: str, first: str) -> None:
    member = membership(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert (member.num_workers, member.index, member.job) == (3, 2, "7.0")
    (host, port), (by_number, _) = map(address, member.chief)
    assert (host, by_number) == (first, "10.0.0.9")
    assert 16_384 <= port < 32_768


def test_jobs_and_steps_on_one_node_have_ports_of_their_own() -> None:
    steps = [SLURM | {"SLURM_JOB_ID": str(j), "SLURM_STEP_ID": str(s)} for j, s in JOBS]
    assert len({membership(step).chief[0] for step in steps}) == len(JOBS)
    assert membership(steps[0]).chief[0] == "node9:27861"  # written down: firewalls may name it
    given = membership(SLURM | {"HARNESS_CLUSTER_CHIEF": "[fe80::1]:9"})
    assert given.chief == ("[fe80::1]:9",)
    assert address(given.chief[0]) == ("fe80::1", 9)


@pytest.mark.parametrize("start", ["OMPI_COMM_WORLD_{}", "PMI_{}"])
def test_mpirun(start: str) -> None:
    """It may run within a job of SLURM, whose own step is another."""
    member = membership({start.format("RANK"): "1", start.format("SIZE"): "4"})
    assert (member.num_workers, member.index) == (4, 1)
    assert member.chief[0].startswith("localhost:")
    within = {start.format("RANK"): "5", start.format("SIZE"): "8", **SLURM}
    assert (membership(within).num_workers, membership(within).index) == (8, 5)


def test_seconds_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seconds in {"300": 300, "1e3": 1_000, "120.": 120, ".5": 0.5}.items():
        monkeypatch.setenv("HARNESS_CLUSTER_WAIT", given)
        assert _wait_seconds() == seconds
    for given in ("", "0", "-1", "nan", "inf", "1e9", "soon"):
        monkeypatch.setenv("HARNESS_CLUSTER_WAIT", given)
        with pytest.raises(InputError, match=f"HARNESS_CLUSTER_WAIT is '{given}'; give a number"):
            _wait_seconds()
