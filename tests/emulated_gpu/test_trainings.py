"""The product trains on the emulated device as on a CPU."""

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
    sizes = [int(line.split()[-1]) for line in lines if line.startswith("graph of")]
    steps = [size for size in sizes if size > 20]  # those of evaluations are smaller
    assert len(steps) == (1 + 3) * 6  # a warm-up, and the epochs
    first = lines.index(f"graph of {steps[0]}")
    assert not [line for line in lines[first:] if line.startswith("allocate")]
