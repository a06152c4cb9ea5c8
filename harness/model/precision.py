"""Which arithmetic a run uses: the rule behind `--precision auto`."""

from harness.run.records import Choice

_BFLOAT16_CAPABILITY = (8, 0)
"""Tensor cores take bfloat16 from Ampere on (NVIDIA CUDA C++ Programming Guide, WMMA types)."""
_FLOAT16_CAPABILITY = (7, 0)
"""Tensor cores take float16 from Volta on."""
_ROWS_THAT_PAY = 2_048
"""Of a GPU's share of a batch. With fewer a step is mostly launches, and float32 has the fewest by
the table in docs/multi_gpu.md: an estimate, for no GPU was at hand."""


def choose_precision(
    device_type: str, compute_capability: tuple[int, int] | None, *, rows: int
) -> Choice:
    """What `auto` comes to.

    Args:
        device_type: `CPU` or `GPU`.
        compute_capability: the weakest GPU's, or None on CPU or where it is unknown.
        rows: of a device's share of a batch.
    """
    if device_type != "GPU":
        return Choice(name="float32", why="CPU: 16-bit arithmetic is not faster there")
    if compute_capability is None:
        return Choice(name="float32", why="GPU of unknown compute capability")
    if rows < _ROWS_THAT_PAY:
        return Choice(name="float32", why=f"{rows:,} rows a GPU are mostly launches")
    shown = ".".join(map(str, compute_capability))
    if compute_capability >= _BFLOAT16_CAPABILITY:
        return Choice(name="mixed_bfloat16", why=f"compute capability {shown} has bfloat16")
    if compute_capability >= _FLOAT16_CAPABILITY:
        return Choice(name="mixed_float16", why=f"compute capability {shown} has float16 only")
    return Choice(name="float32", why=f"compute capability {shown} has no 16-bit tensor cores")
