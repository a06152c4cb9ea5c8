"""Which arithmetic a run uses: the rule behind `--precision auto`."""

from harness.records import Choice

_BFLOAT16_CAPABILITY = (8, 0)
"""Tensor cores take bfloat16 from Ampere on (NVIDIA CUDA C++ Programming Guide, WMMA types)."""
_FLOAT16_CAPABILITY = (7, 0)
"""Tensor cores take float16 from Volta on."""


def choose_precision(device_type: str, compute_capability: tuple[int, int] | None) -> Choice:
    """What `auto` comes to.

    Args:
        device_type: `CPU` or `GPU`.
        compute_capability: the weakest GPU's, or None on CPU or where it is unknown.
    """
    if device_type != "GPU":
        return Choice(name="float32", why="CPU: 16-bit arithmetic is not faster there")
    if compute_capability is None:
        return Choice(name="float32", why="GPU of unknown compute capability")
    shown = ".".join(map(str, compute_capability))
    if compute_capability >= _BFLOAT16_CAPABILITY:
        return Choice(name="mixed_bfloat16", why=f"compute capability {shown} has bfloat16")
    if compute_capability >= _FLOAT16_CAPABILITY:
        return Choice(name="mixed_float16", why=f"compute capability {shown} has float16 only")
    return Choice(name="float32", why=f"compute capability {shown} has no 16-bit tensor cores")
