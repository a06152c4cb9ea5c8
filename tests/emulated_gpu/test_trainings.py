"""The product trains on the emulated device as on a CPU."""

from collections import Counter
from pathlib import Path

import pytest

from tests.emulated_gpu.matrix import FLOAT32, GROUPS, TOLERANCES, Group, distances


@pytest.mark.parametrize("name", GROUPS)
def test_losses_are_a_cpus(name: str, tmp_path: Path) -> None:
    group = GROUPS[name]
    precisions = {case["name"]: case["precision"] for case in group.cases}
    found = distances(group, tmp_path)
    assert {
        case: far for case, far in found.items() if not far < TOLERANCES[precisions[case]]
    } == {}


def test_exact_adam_on_two_gpus(tmp_path: Path) -> None:
    case = {
        "name": "exact",
        "implementation": "native",
        "replicas": 2,
        "table_optimizer": "exact_adam",
    }
    assert (
        distances(Group(cases=({**case, **FLOAT32},), settings={"devices": 2}), tmp_path)["exact"]
        < 1e-6
    )


def test_a_gpu_is_too_new_that_keras_has_begun_with(tmp_path: Path) -> None:
    """An optimizer makes variables, with all GPUs that TensorFlow sees."""
    case = {"name": "second", "implementation": "native", **FLOAT32}
    with pytest.raises(RuntimeError, match=r"InputError: TensorFlow has begun.*12\.0.*hide them"):
        distances(Group(cases=(case,), settings={"devices": 2, "cc_0": 120}), tmp_path)


def test_a_step_is_one_graph_and_allocates_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    case = {"name": "traced", "implementation": "native", "epochs": 3, **FLOAT32}
    distances(Group(cases=(case,), settings={"trace": trace}), tmp_path)
    lines = trace.read_text().splitlines()
    graphs = Counter(line for line in lines if line.startswith("graph of"))
    num_steps = (1 + 3) * 5  # a warm-up, and the epochs; the last batch has a program of its own
    (step,) = [graph for graph, count in graphs.items() if count == num_steps]
    assert (
        step == "graph of 19"
    )  # fewer are better: change it then, and what docs/multi_gpu.md says
    sorts = [line for line in lines if line == "run multi_hot_scatter"]
    assert len(sorts) == (1 + 3) * 2  # an index for all steps of a call, and one for the last batch
    first = lines.index(step)
    assert not [line for line in lines[first:] if line.startswith("allocate")]
