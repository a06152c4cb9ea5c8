"""The trainings on the emulated device, and the tolerances of their losses against a CPU's."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.emulated_gpu import device

FLOAT32 = {"precision": "float32"}
TOLERANCES = {"float32": 1e-6, "mixed_float16": 1e-4, "mixed_bfloat16": 1e-3}
"""The relative tolerance of losses by precision. 16 bits round each layer's outputs, after sums in
another order: bfloat16 to 2^-9, float16 to 2^-12."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trainings of one process."""

    cases: tuple[dict[str, Any], ...]
    more: tuple[dict[str, Any], ...] = ()
    """Trainings that the suite leaves out: others have each of their settings."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the device; see `device.environment`."""
    variables: dict[str, str] = field(default_factory=dict)
    """More variables of the environment."""


def _case(implementation: str, precision: str = "float32", **settings: Any) -> dict[str, Any]:
    extra = " ".join(
        f"{value}" if isinstance(value, str) else key for key, value in settings.items()
    )
    name = " ".join(filter(None, (implementation, precision, extra)))
    return {"name": name, "implementation": implementation, "precision": precision, **settings}


_IMPLEMENTATIONS = ("gather", "dense", "native")
_16_BITS = ("mixed_bfloat16", "mixed_float16")
GROUPS = {
    "every implementation, precision and table optimizer": Group(
        cases=(
            *(_case(one, weighted=True, predicts=True, ragged=True) for one in _IMPLEMENTATIONS),
            _case("gather", "mixed_bfloat16"),
            _case("dense", "mixed_float16"),
            _case("native", "mixed_bfloat16", input="mapped"),
            _case("gather", table_optimizer="adagrad"),
            _case("native", table_optimizer="exact_adam", epochs=6, quick=True),
            _case("native", "mixed_float16", table_optimizer="lazy_adam", clip=0.1),
            _case("native", "mixed_float16", embeds=True),
        ),
        more=(
            *(_case(one) for one in _IMPLEMENTATIONS),
            _case("gather", "mixed_float16"),
            _case("dense", "mixed_bfloat16"),
            *(_case("native", precision) for precision in _16_BITS),
            _case("gather", table_optimizer="lazy_adam"),
            _case("native", table_optimizer="lazy_adam", clip=0.1),
            _case("native", table_optimizer="adagrad"),
            _case("native", "mixed_bfloat16", table_optimizer="lazy_adam"),
            _case("native", input="stream"),
        ),
    ),
    "compute capability 8.0, every buffer ends at a guard page": Group(
        cases=(
            _case("gather", deterministic=True, input="stream"),
            _case("native", table_optimizer="exact_adam", deterministic=True),
            _case("native", "mixed_bfloat16", weighted=True, ragged=True),
        ),
        more=(
            *(_case(one, deterministic=True) for one in _IMPLEMENTATIONS),
            *(_case("native", precision) for precision in _16_BITS),
        ),
        settings={"cc": 80, "guard": 1, "seed": 3},
        variables={"TF_GPU_ALLOCATOR": "cuda_malloc_async"},
    ),
    "compute capability 9.0": Group(
        cases=tuple(_case("native", precision) for precision in _16_BITS),
        more=tuple(_case(one, deterministic=True) for one in ("gather", "native")),
        settings={"cc": 90, "seed": 1},
    ),
    "two GPUs": Group(
        cases=(
            _case("gather", replicas=2),
            _case("native", replicas=2, table_optimizer="exact_adam", ragged=True, predicts=True),
            _case("native", replicas=2, table_optimizer="lazy_adam", clip=0.1, input="stream"),
            _case("native", replicas=2, embeds=True),
        ),
        more=(
            _case("dense", replicas=2, predicts=True),
            _case("native", replicas=2, predicts=True, ragged=True),
        ),
        settings={"devices": 2, "seed": 2},
    ),
}


def _run(cases: tuple[dict[str, Any], ...], environment: dict[str, str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.emulated_gpu.trainings", json.dumps(cases)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=device.ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def distances(group: Group, folder: Path) -> dict[str, float]:
    """Return the largest relative distance of each case's losses from those on the CPU.

    Raises:
        RuntimeError: when a training failed, or was not on the device.
    """
    from tests.emulated_gpu.trainings import train  # which imports TensorFlow

    on_device = device.environment(folder, **group.settings) | group.variables
    with ThreadPoolExecutor(1) as pool:
        own = pool.submit(_run, group.cases, on_device)
        # This process sees no GPU; one replica computes what several do. Determinism, which a CPU
        # has anyway, would last to the process's end.
        left_out = {"replicas", "deterministic"}
        wanted = [
            train({k: v for k, v in case.items() if k not in left_out}) for case in group.cases
        ]
    found = {}
    for one, other in zip(own.result(), wanted, strict=True):
        if not one["devices"][0].startswith("/GPU") or other["devices"] != ["/CPU:0"]:
            raise RuntimeError(f"{one['name']} was on {one['devices']}, and {other['devices']}")
        pairs = zip(one["losses"], other["losses"], strict=True)
        found[one["name"]] = max(abs(loss / cpus - 1) for loss, cpus in pairs)
    return found
