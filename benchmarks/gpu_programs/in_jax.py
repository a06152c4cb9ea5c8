"""Compiles lowered programs for GPUs that the machine lacks, and counts their launches.

    python benchmarks/gpu_programs/in_jax.py DIR [--card NAME ...] [--json FILE] [--against FILE]

It runs in an environment with JAX and its CUDA plugin, which has no TensorFlow, and so imports
nothing of the project. `./scripts/gpu-programs` makes the environment.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import re
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


def register_kernels(source: Path) -> None:
    """Registers the handlers of the project's CUDA kernels, built with JAX's headers, without which
    XLA does not compile a program that calls them. Nothing is launched."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "handlers.so"
        flags = ("-std=c++17", "-O1", "-fPIC", "-shared", "-isystem", jax.ffi.include_dir())
        command = [os.environ.get("CXX", "g++"), *flags, str(source), "-o", str(library), "-ldl"]
        subprocess.run(command, check=True)
        handler = ctypes.CDLL(str(library)).multi_hot_cuda_handler
    handler.restype, name = ctypes.c_void_p, ctypes.c_char_p()
    for place in itertools.count():
        if (address := handler(ctypes.c_size_t(place), ctypes.byref(name))) is None:
            return
        capsule = jax.ffi.pycapsule(address)
        jax.ffi.register_ffi_target((name.value or b"").decode(), capsule, platform="CUDA")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what lower.py wrote")
    parser.add_argument("--card", nargs="+", choices=CARDS, default=list(CARDS))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--kernels", type=Path, help="the source of the CUDA kernels' handlers")
    parser.add_argument("--against", type=Path, help="an earlier record: fails where it was better")
    arguments = parser.parse_args()
    content = json.loads((arguments.folder / "programs.json").read_text())
    rows: list[dict[str, Any]] = []
    if arguments.kernels:
        register_kernels(arguments.kernels)
    for program in content["programs"]:
        described = {n: value for n, value in program.items() if n not in ("file", "num_tokens")}
        if program["implementation"] == "native" and not arguments.kernels:
            print(f"{program['name']:<48} needs the project's kernels: left out")
            continue
        for card in arguments.card:
            file = arguments.folder / program["file"]
            executable = compiled_for(card, file, program["gpus"])
            optimized = executable.hlo_modules()[0].to_string()
            figures = verdict.counts(optimized, program["num_tokens"])
            memory = executable.get_compiled_memory_stats()  # arguments and results not included
            figures["temporary_bytes"] = memory.temp_size_in_bytes
            rows.append({**described, "card": card, **figures})
            print(
                f"{program['name']:<48} {card:<10} {figures['launches_per_step']:>3} launches a "
                f"step, trip count {'known' if figures['trip_count_known'] else 'NOT KNOWN'}, "
                f"{figures['temporary_bytes'] / 1e6:7.1f} MB, {figures['collectives_per_step']} "
                f"collectives, {figures['host_transfers']} host transfers",
                flush=True,
            )
    if arguments.json:
        versions = {"tensorflow": content["tensorflow"], "jax": jax.__version__}
        record = {"versions": versions, "programs": rows}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    worse = verdict.faults(rows)
    if arguments.against:
        worse += verdict.regressions(rows, json.loads(arguments.against.read_text())["programs"])
    for line in worse:
        print(f"FAILED {line}")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
