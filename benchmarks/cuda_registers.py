"""The registers of the CUDA kernels on every GPU generation that the installed compilers know.

    ./scripts/cuda-kernels [--all]

NVRTC compiles the kernels to PTX, and ptxas compiles PTX to machine code; neither needs a GPU. The
program fails if a kernel spills registers to memory. It imports no TensorFlow.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kernels.multi_hot.cuda.compiler import Compiler, find_compiler

_OLDEST = (7, 0)


class Usage(NamedTuple):
    """A kernel's use of a core's resources."""

    kernel: str
    registers: int
    """The registers of a thread."""
    spilled_bytes: int
    """The bytes that a thread stores to memory for want of registers."""
    shared_bytes: int
    """The bytes of a block's shared memory."""


def ptxas() -> str:
    """Returns the path of the installed package's assembler, else the name of the system's."""
    package = importlib.util.find_spec("nvidia.cuda_nvcc")
    folders = [] if package is None else list(package.submodule_search_locations or [])
    return next((f"{folder}/bin/ptxas" for folder in folders), "ptxas")


def usages(nvrtc: Compiler, capability: tuple[int, int]) -> list[Usage]:
    """Returns each kernel's use of resources, as ptxas reports it."""
    architecture = f"sm_{capability[0]}{capability[1]}"
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "kernels.ptx"
        text.write_bytes(nvrtc.compile(capability, as_text=True).rstrip(b"\0"))
        command = [ptxas(), "-v", f"-arch={architecture}", str(text), "-o", f"{folder}/kernels"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"ptxas refused {architecture}:\n{done.stderr}")
    return parsed(done.stderr)


def parsed(report: str) -> list[Usage]:
    """Parses the report of `ptxas -v`."""
    found = []
    for part in report.split("Compiling entry function '")[1:]:
        numbers = {
            name: int(match[1]) if (match := re.search(pattern, part)) else 0
            for name, pattern in (
                ("registers", r"Used (\d+) registers"),
                ("spilled_bytes", r"(\d+) bytes spill stores"),
                ("shared_bytes", r"(\d+) bytes smem"),
            )
        }
        found.append(Usage(part.split("'")[0], **numbers))
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="a line for each kernel")
    arguments = parser.parse_args()
    nvrtc = find_compiler()
    print(f"NVRTC {nvrtc.version}")
    spilling = 0
    for capability in (own for own in nvrtc.capabilities if own >= _OLDEST):
        found = usages(nvrtc, capability)
        registers = [usage.registers for usage in found]
        spills = [usage for usage in found if usage.spilled_bytes]
        spilling += len(spills)
        largest = max(usage.shared_bytes for usage in found)
        print(
            f"sm_{capability[0]}{capability[1]}: {len(found)} kernels, {min(registers)} to "
            f"{max(registers)} registers, at most {largest:,} bytes of shared memory, "
            f"{len(spills) or 'no'} spills",
            flush=True,
        )
        for usage in found if arguments.all else spills:
            print(
                f"  {usage.kernel}: {usage.registers} registers, {usage.spilled_bytes} bytes "
                f"spilled, {usage.shared_bytes:,} bytes of shared memory"
            )
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
