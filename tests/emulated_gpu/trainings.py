"""The trainings on the emulated device, and the tolerances of their losses against a CPU's.

`python -m tests.emulated_gpu.trainings CASES` trains one after another, and prints their losses.
CASES is a JSON list of settings of `harness.Trainer`, each with a `name` and perhaps `weighted`,
`unique` (no row holds an id twice), `clip` (the gradients' norm), `embeds` (an own layer in the
table's place), `descends` (by SGD), `predicts`, `epochs`,
`quick` (dispatches grow as on a quick device, beyond an epoch's end on a GPU) or `ragged` (an epoch
ends in a smaller batch, whose programs take as long to compile as the others).
The environment decides which devices the process computes on.
"""

import contextlib
import functools
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np

import harness
import harness.trainer.cadence as lengths
from benchmarks.differential.layers import Pooled
from kernels.multi_hot import ROW_OPTIMIZERS
from tests.emulated_gpu import device

NUM_TOKENS, NUM_ROWS, BATCH_SIZE = 101, 90, 16  # so that an epoch may end in a smaller batch

FLOAT32 = {"precision": "float32"}
TOLERANCES = {"float32": 1e-6, "mixed_float16": 1e-4, "mixed_bfloat16": 1e-3}
"""The relative tolerance of losses by precision. 16 bits round each layer's outputs, after sums in
another order: bfloat16 to 2^-9, float16 to 2^-12."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trainings of one process."""

    cases: tuple[dict[str, Any], ...] = ()
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
            _case("gather", weighted=True, predicts=True),
            _case("native", weighted=True, predicts=True, ragged=True),
            _case("dense", "mixed_float16"),
            _case("native", "mixed_bfloat16", input="mapped"),
            _case("native", table_optimizer="exact_adam", epochs=6, quick=True),
            _case("native", "mixed_float16", table_optimizer="lazy_adam", clip=0.1),
        ),
        more=(
            *itertools.starmap(_case, itertools.product(_IMPLEMENTATIONS, TOLERANCES)),
            *(_case(one, weighted=True, predicts=True, ragged=True) for one in ("gather", "dense")),
            # `gather` and `dense` update rows by the same code.
            *(
                _case(one, precision, table_optimizer=kind)
                for one, precision, kind in itertools.product(
                    ("gather", "native"), ("float32", "mixed_bfloat16"), ROW_OPTIMIZERS
                )
                if one == "native" or (kind != "exact_adam" and precision == "float32")
            ),
            _case("native", table_optimizer="lazy_adam", clip=0.1),
            _case("native", input="stream"),
            _case("native", "mixed_float16", embeds=True),
        ),
    ),
    "compute capability 8.0, every buffer ends at a guard page": Group(
        more=(
            _case("gather", deterministic=True, input="stream"),
            _case("native", table_optimizer="exact_adam", deterministic=True),
            _case("native", "mixed_bfloat16", weighted=True, ragged=True),
            *(_case(one, deterministic=True) for one in _IMPLEMENTATIONS),
            *(_case("native", precision) for precision in _16_BITS),
        ),
        settings={"cc": 80, "seed": 3},
        variables={"TF_GPU_ALLOCATOR": "cuda_malloc_async"},
    ),
    "compute capability 9.0": Group(
        more=(
            *(_case("native", precision) for precision in _16_BITS),
            *(_case(one, deterministic=True) for one in ("gather", "native")),
        ),
        settings={"cc": 90, "seed": 1},
    ),
    "two GPUs": Group(
        cases=(
            _case("native", replicas=2, table_optimizer="exact_adam", ragged=True, predicts=True),
            _case("native", replicas=2, table_optimizer="lazy_adam", clip=0.1, input="stream"),
            # Several replicas make gradients by rows dense, of which Adam squares the sums.
            _case("native", replicas=2, embeds=True, descends=True),
        ),
        more=(
            _case("gather", replicas=2),
            _case("dense", replicas=2, predicts=True),
            _case("native", replicas=2, predicts=True, ragged=True),
        ),
        settings={"devices": 2, "seed": 2},
    ),
}


def rows_of(*, weighted: bool) -> harness.RaggedSets:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 12, NUM_ROWS)
    num_values = int(lengths.sum())
    return harness.RaggedSets(
        values=random.integers(0, NUM_TOKENS, num_values),
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        weights=random.uniform(0.5, 2, num_values).astype(np.float32) if weighted else None,
        labels=random.integers(0, 2, NUM_ROWS),
        num_tokens=NUM_TOKENS,
    )


def network(inputs: Any) -> Any:
    """Computes a smooth network: a row that crosses a kink would part the losses by more than
    rounding."""
    x = harness.MultiHotDense(8, num_tokens=NUM_TOKENS, activation="gelu")(inputs)
    return keras.layers.Dense(1)(keras.layers.Dense(8, activation="gelu")(x))


def embedding(inputs: Any) -> Any:
    """Computes a network with an embedding of the user's own, which has a gradient by rows."""
    return keras.layers.Dense(1)(Pooled(NUM_TOKENS, 8, mean=True, seed=1)(inputs))


def train(case: dict[str, Any]) -> dict[str, Any]:
    case = dict(case)
    name, epochs = case.pop("name", ""), case.pop("epochs", 2)
    weighted, embeds, predicts = (case.pop(k, False) for k in ("weighted", "embeds", "predicts"))
    quick = case.pop("quick", False)
    updates = case.keys() & {"table_optimizer", "clip"}
    if case.get("table_optimizer") == "adagrad":
        optimizer: Any = functools.partial(keras.optimizers.Adagrad, 0.1)
    elif case.pop("descends", False):
        optimizer = functools.partial(keras.optimizers.SGD, 0.1)
    else:
        clip = case.pop("clip", None)
        optimizer = functools.partial(keras.optimizers.Adam, 0.01, clipnorm=clip)
    rows = rows_of(weighted=weighted)
    rows = rows.unique() if case.pop("unique", False) else rows
    if not case.pop("ragged", False):
        rows = rows.take(np.arange(NUM_ROWS // BATCH_SIZE * BATCH_SIZE))
    model = embedding if embeds else network
    trainer = harness.Trainer(model, optimizer=optimizer, batch_size=BATCH_SIZE, **case)
    # Neither an evaluation nor the watch over precision depends on how weights were updated: their
    # programs are those of others.
    rest = {"precision_watch": 0} if updates else {"validation": rows}
    with contextlib.ExitStack() as patches:
        if quick:
            limits = {"AIM_SECONDS": 1e9, "_TOO_SHORT_SECONDS": 1e9, "_TOO_LONG_SECONDS": 1e9}
            patches.enter_context(mock.patch.multiple(lengths, **limits))
        after = lengths.Cadence.after
        spy = mock.patch.object(lengths.Cadence, "after", autospec=True, side_effect=after)
        ended = patches.enter_context(spy)
        history = trainer.fit(rows, epochs=epochs, verbose=False, **rest).history
    if quick and trainer.devices.device_type == "GPU":
        assert ended.call_count < epochs, "each epoch had a dispatch of its own"
    losses = [float(loss) for key in ("loss", "val_loss") for loss in history.get(key, ())]
    if predicts:  # a mean square that both sides must agree in
        losses.append(float(np.mean(np.square(trainer.predict(rows)))))
        losses.append(float(trainer.evaluate(rows)["loss"]))
    return {"name": name, "devices": list(trainer.devices.names), "losses": losses}


def _run(cases: tuple[dict[str, Any], ...], environment: dict[str, str]) -> list[dict[str, Any]]:
    done = device.run(environment, "-m", "tests.emulated_gpu.trainings", json.dumps(cases))
    if done.code:
        raise RuntimeError(f"ended with {done.code}\n{done.out}\n{done.err[-6000:]}")
    return [json.loads(line) for line in done.out.splitlines()]


def distances(group: Group, folder: Path) -> dict[str, float]:
    """Return the largest relative distance of each case's losses from those on the CPU.

    Raises:
        RuntimeError: when a training failed, or was not on the device.
    """
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


def too_far(group: Group, found: dict[str, float]) -> list[str]:
    """Return the cases whose losses are further from the CPU's than rounding explains."""
    precisions = {case["name"]: case["precision"] for case in group.cases}
    return [case for case, far in found.items() if not far < TOLERANCES[precisions[case]]]


def main() -> None:
    for case in json.loads(sys.argv[1]):
        print(json.dumps(train(case)), flush=True)


if __name__ == "__main__":
    main()
