"""The registers of the CUDA kernels on every GPU generation that the installed compilers know.

    ./scripts/cuda-kernels

NVRTC compiles the kernels to PTX, and ptxas compiles PTX to machine code; neither needs a GPU. The
program fails if a kernel spills registers to memory. It imports no TensorFlow.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from kernels.multi_hot.cuda.compiler import Compiler, find_compiler

_OLDEST = (7, 0)


def report_of(nvrtc: Compiler, capability: tuple[int, int]) -> str:
    """Returns what `ptxas -v` says of the kernels: each one's registers, spills and memory."""
    package = importlib.util.find_spec("nvidia.cuda_nvcc")
    folders = [] if package is None else list(package.submodule_search_locations or [])
    ptxas = next((f"{folder}/bin/ptxas" for folder in folders), "ptxas")  # else the system's
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "kernels.ptx"
        text.write_bytes(nvrtc.compile(capability, as_text=True).rstrip(b"\0"))
        architecture = f"-arch=sm_{capability[0]}{capability[1]}"
        command = [ptxas, "-v", architecture, str(text), "-o", f"{folder}/kernels"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"ptxas refused {architecture}:\n{done.stderr}")
    return done.stderr


def main() -> int:
    nvrtc = find_compiler()
    print(f"NVRTC {nvrtc.version}")
    is_spilling = False
    for capability in (own for own in nvrtc.capabilities if own >= _OLDEST):
        report = report_of(nvrtc, capability)
        registers, spilled, shared = (
            [int(number) for number in re.findall(pattern, report)]
            for pattern in (
                r"Used (\d+) registers",
                r"(\d+) bytes spill stores",
                r"(\d+) bytes smem",
            )
        )
        print(
            f"sm_{capability[0]}{capability[1]}: {len(registers)} kernels, {min(registers)} to "
            f"{max(registers)} registers, at most {max(shared, default=0):,} bytes shared",
            flush=True,
        )
        if any(spilled):
            is_spilling = True
            print(f"  registers are spilled to memory:\n{report}")
    return int(is_spilling)


if __name__ == "__main__":
    sys.exit(main())
