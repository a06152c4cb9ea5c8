"""The checks before TensorFlow computes, on machines of every kind."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import tensorflow as tf

from harness.run.telemetry.nvml import Card
from harness.trainer.environment import is_too_new, unusable_gpus

BUILD = {
    "is_cuda_build": True,
    "cuda_version": "12.5.1",
    "cuda_compute_capabilities": ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"],
}
H100 = ("NVIDIA H100", (9, 0))
RTX_50 = ("NVIDIA GeForce RTX 5090", (12, 0))


@pytest.mark.parametrize(
    ("capability", "cuda", "too_new"),
    [
        ((9, 0), "12.5.1", False),
        ((10, 0), "12.5.1", True),
        ((12, 0), "12.5.1", True),
        ((12, 0), "12.8", False),
        ((12, 0), "13.0.2", False),
        (None, "12.5.1", False),
    ],
)
def test_which_gpus_are_too_new(
    capability: tuple[int, int] | None, cuda: str, too_new: bool
) -> None:
    assert is_too_new(("a GPU", capability), BUILD | {"cuda_version": cuda}) == too_new
    assert not is_too_new(("a GPU", capability), {"is_cuda_build": False})


def test_the_installed_tensorflow() -> None:
    build = tf.sysconfig.get_build_info()
    if not build["is_cuda_build"]:
        pytest.skip("TensorFlow is built without CUDA")
    assert is_too_new(RTX_50, build)
    assert not is_too_new(H100, build)


def warning_of(
    *gpus: tuple[str, tuple[int, int]],
    listed: Sequence[tuple[str, tuple[int, int]]] = (),
    build: Mapping[str, Any] = BUILD,
    **environment: str,
) -> str:
    """Returns the warning on a machine with these GPUs, of which TensorFlow lists some."""
    cards = [
        Card(uuid=f"GPU-{i}", bus=f"00000000:{i:02X}:00.0", name=name, compute_capability=known)
        for i, (name, known) in enumerate(gpus)
    ]
    return unusable_gpus(listed=listed, cards=cards, build=build, environment=environment)


def test_no_warning_where_all_is_well_or_hidden_on_purpose() -> None:
    assert warning_of() == ""
    assert warning_of(H100, H100, listed=[H100, H100]) == ""
    assert warning_of(H100, H100, listed=[H100], CUDA_VISIBLE_DEVICES="1") == ""
    assert warning_of(H100, RTX_50, listed=[H100], CUDA_VISIBLE_DEVICES="0") == ""
    for hidden in ("", "-1"):
        assert warning_of(H100, RTX_50, CUDA_VISIBLE_DEVICES=hidden) == ""


def test_too_new_alone_leaves_the_cpu() -> None:
    # Whether TensorFlow lists it or not.
    for listed in ([RTX_50], []):
        warning = warning_of(RTX_50, listed=listed)
        assert "CUDA 12.8 or later" in warning
        assert "CUDA libraries" not in warning
        assert "The CPU computes instead; CUDA_VISIBLE_DEVICES=-1 chooses it" in warning


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "-m pip install 'tensorflow[and-cuda]'"),
        ({}, "TF_CPP_MIN_LOG_LEVEL=0 "),
        ({"build": {"is_cuda_build": False}}, "is built without CUDA; "),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "CUDA_VISIBLE_DEVICES is '7', which names no GPU"),
    ],
)
def test_why_the_cpu_computes(settings: dict[str, Any], words: str) -> None:
    warning = warning_of(H100, H100, **settings)
    assert words in warning
    assert "The CPU computes instead" in warning
