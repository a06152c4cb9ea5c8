"""The rule behind `--precision auto`."""

from harness.run.records import Choice

_BFLOAT16_CAPABILITY = (8, 0)  # Ampere (CUDA C++ Programming Guide, WMMA types)
_FLOAT16_CAPABILITY = (7, 0)  # First compute capability whose tensor cores take float16, Volta
_ROWS_THAT_PAY = 2_048
"""Least rows of a GPU's share for 16 bits; with fewer, a step is mostly launches, of which float32
has the fewest (docs/multi_gpu.md). An estimate, as no GPU was at hand."""


def choose_precision(
    device_type: str, compute_capability: tuple[int, int] | None, *, rows: int
) -> Choice:
    """Returns what `auto` stands for, by the weakest GPU and the rows of a device's share."""
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
