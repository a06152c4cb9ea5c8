"""The membership of a process, from the variables of its environment."""

import json
from dataclasses import replace

import pytest

from harness.base.errors import InputError
from harness.workers.membership import Membership, membership

WORKERS = ["a:1", "b:1", "c:2"]


def config(cluster: object, kind: str = "worker", index: object = 0) -> dict[str, str]:
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
        hosts=("a:1", "b:1", "c:2"), index=2
    )
    both = {"chief": ["z:9"], "worker": WORKERS}
    assert membership(config(both, index=1)) == Membership(
        hosts=("z:9", "a:1", "b:1", "c:2"), index=2
    )
    assert membership(config(both, kind="chief")).is_chief
    assert not membership(config(both, index=0)).is_chief


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "worker"}, "TF_CONFIG is 'worker', which is no cluster; unset it"),
        ({"TF_CONFIG": "[]"}, r"TF_CONFIG is '\[\]', which is no cluster"),
        (config({"worker": WORKERS, "ps": ["d:1"]}), "whose jobs ps have nothing to do here"),
        (config({"worker": ["a", "b:1"]}), "not all of the form name:port"),
        (config({"worker": ["a:1", "a:1"]}), "names one worker twice"),
        (config({"worker": WORKERS}, index=3), "whose task 'worker 3' is not in the cluster"),
        (config({"worker": WORKERS}, kind="chief"), "whose task 'chief 0' is not in the cluster"),
        (
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            "SLURM started 2 tasks, but its variables do not describe them .*srun --ntasks=1",
        ),
    ],
)
def test_no_place_in_a_cluster(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        membership(environment)


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's resolver reads the variables of the process itself."""
    variables = {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert membership(variables) == Membership(
        hosts=("node1:8888", "node1:8889", "node2:8888"), index=2
    )
    shares = [replace(membership(variables), index=index).on_this_host for index in range(3)]
    assert shares == [(0, 2), (1, 2), (0, 1)]
