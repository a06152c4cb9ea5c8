"""Compiles the programs of `lower.py` for GPUs that the machine lacks, and counts their launches.

`./scripts/gpu-programs` calls it, in an environment with JAX and its CUDA plugin. That one has no
TensorFlow, so this module imports nothing of the project, and `lower.py` is another process.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import verdict  # beside this file
from jax._src.interpreters import mlir
from jax._src.lib import _jax, xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies

jax.config.update("jax_enable_x64", True)

ROOT = Path(__file__).resolve().parents[2]
CXX = os.environ.get("CXX", "g++")
CARDS = json.loads(Path(__file__).with_name("cards.json").read_text())
"""Cards, with the numbers that XLA publishes in xla/backends/gpu/target_config/specs/."""


def target_config(card: str) -> str:
    """Returns a card's XLA GpuTargetConfigProto, as text."""
    name, (major, minor) = CARDS[card]["name"], CARDS[card]["compute_capability"]
    numbers = " ".join(f"{field}: {value}" for field, value in CARDS[card]["numbers"].items())
    features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    return f"""
    gpu_device_info {{
      {numbers} name: "{name}" device_vendor: "NVIDIA Corporation" device_address_bits: 64
      cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
      threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
      registers_per_core_limit: 65536 registers_per_block_limit: 65536 thread_dim_limit_x: 1024
      thread_dim_limit_y: 1024 thread_dim_limit_z: 64 block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535 block_dim_limit_z: 65535 driver_version: "13.0.0"
      runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
    """


def module_of(file: Path) -> str:
    """Converts a serialized HLO module to the StableHLO that a client compiles."""
    computation = xla_client.XlaComputation(file.read_bytes())
    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.xla_computation_to_mlir_module(computation))
        text = module.operation.get_asm()
    # No StableHLO operation is a copy, and none is needed.
    return re.sub(
        r"mhlo\.copy (%[\w#:]+) : (tensor<[^>]*>)", r"stablehlo.reshape \1 : (\2) -> \2", text
    )


@contextlib.contextmanager
def complaints_held_back() -> Iterator[None]:
    """Holds back the compiler's messages on every attempt in vain; shows them if all fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def compiled_for(card: str, file: Path, num_devices: int) -> Any:
    """Compiles a program for a card; returns the executable, which cannot be run here."""
    with complaints_held_back():
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=target_config(card),
            topology=f"1x{num_devices}x1",
        )
    devices = _jax.DeviceList(tuple(topology.devices))
    options = xla_client.CompileOptions()
    options.num_replicas = num_devices
    assignment = np.arange(num_devices, dtype=np.int32)[:, None]
    options.device_assignment = xla_client.DeviceAssignment.create(assignment)
    with mlir.make_ir_context(), complaints_held_back():
        module = ir.Module.parse(module_of(file))
        return topology.devices[0].client.compile(module, devices, options)


def register_kernels() -> None:
    """Registers the handlers of the project's CUDA kernels, built with JAX's headers, without which
    XLA does not compile a program that calls them. Nothing is launched."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "handlers.so"
        flags = ("-std=c++17", "-O1", "-fPIC", "-shared", "-isystem", jax.ffi.include_dir())
        source = ROOT / "kernels" / "multi_hot" / "cuda" / "binding.cc"
        subprocess.run([CXX, *flags, source, "-o", library, "-ldl"], check=True)
        handler = ctypes.CDLL(str(library)).multi_hot_cuda_handler
    handler.restype, name = ctypes.c_void_p, ctypes.c_char_p()
    for place in itertools.count():
        if (address := handler(ctypes.c_size_t(place), ctypes.byref(name))) is None:
            return
        capsule = jax.ffi.pycapsule(address)
        jax.ffi.register_ffi_target((name.value or b"").decode(), capsule, platform="CUDA")


def lowered(folder: Path, *, short: bool) -> list[dict[str, Any]]:
    """Writes the programs into a folder; returns their descriptions."""
    command = [f"{ROOT}/.venv/bin/python", "-m", "benchmarks.gpu_programs.lower", str(folder)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([*command, *["--short"] * short], cwd=ROOT, env=environment, check=True)
    programs: list[dict[str, Any]] = json.loads((folder / "programs.json").read_text())
    return programs


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu-programs", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--card", nargs="+", choices=CARDS, default=list(CARDS))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    before = verdict.read(arguments.against.read_text()) if arguments.against else None
    has_kernels = shutil.which(CXX) is not None
    if has_kernels:
        register_kernels()
    table: verdict.Table = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for program in lowered(Path(folder), short=arguments.short):
            name = program["name"]
            if program["implementation"] == "native" and not has_kernels:
                print(f"{name}: left out, as it needs the project's kernels and a C++ compiler")
                continue
            table[name] = {}
            for card in arguments.card:
                executable = compiled_for(card, Path(folder) / f"{name}.hlo", program["gpus"])
                optimized = executable.hlo_modules()[0].to_string()
                found = verdict.counts(optimized, program["num_tokens"])
                table[name][card] = found["launches_per_step"]
                failed += [f"{name} on {card}: {fault}" for fault in verdict.faults(program, found)]
                # Arguments and results are not included.
                memory = executable.get_compiled_memory_stats().temp_size_in_bytes
                print(
                    f"{name:<50} {card:<10} {found['launches_per_step']:>3} launches a step, "
                    f"{memory / 1e6:6.1f} MB of temporary memory",
                    flush=True,
                )
    if arguments.record:
        arguments.record.write_text(verdict.written(table))
    if before is not None:
        failed += verdict.regressions(table, before)
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
