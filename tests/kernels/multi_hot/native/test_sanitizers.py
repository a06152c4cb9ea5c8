"""The kernels alone under the compiler's sanitizers, on random and hostile inputs."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from kernels.multi_hot.native.build import SOURCES, find_compiler, flags

# Address-space randomisation of recent kernels leaves the thread sanitizer no room for its map.
_FIXED_ADDRESSES = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "sanitizer",
    [
        # Optimized, it takes longer to compile than to run.
        ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        ["-O1", "-fsanitize=thread"],
    ],
    ids=["address_and_undefined", "thread"],
)
def test_clean_under(sanitizer: list[str], tmp_path: Path) -> None:
    program = tmp_path / "kernel_test"
    source = Path(__file__).with_name("kernel_test.cc")
    options = [*flags(), "-UNDEBUG", "-g", "-Werror", *sanitizer, f"-I{SOURCES}"]
    compiler = find_compiler() or []
    subprocess.run([*compiler, *options, str(source), "-o", str(program)], check=True)
    done = subprocess.run(
        [*_FIXED_ADDRESSES, str(program)], capture_output=True, text=True, timeout=600
    )
    # The output begins with the seed, which the program takes as its argument.
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all passed\n")
