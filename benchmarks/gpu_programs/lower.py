"""Lowers the training and evaluation programs, as they would be built on a GPU, to XLA's HLO.

    .venv/bin/python -m benchmarks.gpu_programs.lower DIR [--short]

Writes `train-*.hlo` and `evaluate-*.hlo`, and `programs.json`, which describes them.
`./scripts/gpu-programs` calls it.
"""

import argparse
import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import keras
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function.compiler_ir import from_concrete_function

from benchmarks.peers.protocol import DROPOUT, HIDDEN_UNITS, NUM_TOKENS
from harness.base.files import write_json
from harness.data.examples import Examples
from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus
from harness.feed.feed import Dispatches
from harness.model.network import DefaultNetwork
from harness.program.devices import Devices
from harness.task.task import Task
from harness.trainer import choices, setup
from harness.trainer.settings import Precision, Settings
from kernels.multi_hot import Implementation, RowOptimizer
from kernels.multi_hot.native import call

Input = Literal["resident", "stream"]
_HELD_OUT_ROWS = 10_000
_MANY_TOKENS = 2**18


@dataclass(frozen=True)
class Case:
    """A program."""

    kind: str  # `train` or `evaluate`
    implementation: Implementation
    precision: Precision
    input: Input
    rows: int  # The rows of a batch
    gpus: int = 1
    table: RowOptimizer | Literal["dense"] = "dense"  # The optimizer of the table

    @property
    def num_tokens(self) -> int:
        """The rows of the table, many if it is updated by rows."""
        return NUM_TOKENS if self.table == "dense" else _MANY_TOKENS

    @property
    def name(self) -> str:
        """The program's name in files and tables."""
        parts = [self.kind, self.implementation, self.precision, self.input, str(self.rows)]
        parts += [self.table] if self.table != "dense" else []
        return "-".join(parts if self.gpus == 1 else [*parts, f"{self.gpus}gpus"])


def cases(*, short: bool) -> Iterator[Case]:
    """Yields every program; with `short`, those that a gate looks at."""
    implementations: tuple[Implementation, ...] = ("gather", "dense", "native")
    precisions: tuple[Precision, ...] = ("float32", "mixed_bfloat16", "mixed_float16")
    inputs: tuple[Input, ...] = ("resident",) if short else ("resident", "stream")
    sizes = (500,) if short else (500, 4096)
    for implementation, precision, input_, rows in itertools.product(
        implementations, precisions, inputs, sizes
    ):
        if short and precision == "mixed_float16" and implementation != "native":
            continue
        for kind in ("train", "evaluate"):
            yield Case(kind, implementation, precision, input_, rows)
    for implementation in implementations:
        yield Case("train", implementation, "mixed_bfloat16", "resident", 16_384, gpus=2)
    by_rows: list[tuple[Implementation, RowOptimizer, int]] = [("native", "lazy_adam", 1)]
    by_rows += [("native", "lazy_adam", 2)]
    if not short:
        by_rows += [("native", "adagrad", 1), ("native", "exact_adam", 1)]
        by_rows += [("gather", "lazy_adam", 1), ("gather", "lazy_adam", 2)]
    for implementation, table, gpus in by_rows:
        yield Case("train", implementation, "float32", "resident", 4096, gpus=gpus, table=table)


@functools.cache
def rows_of(num_tokens: int) -> tuple[Examples, Examples]:
    """Returns rows to train on and to test on."""
    corpus = synthetic_corpus(SyntheticOptions(synthetic_tokens=num_tokens)).unique()
    test, train = corpus.split(_HELD_OUT_ROWS)
    return Examples.of(train), Examples.of(test)


class _StandIns(Devices):
    """Logical CPU devices that stand for GPUs."""

    def free_bytes(self) -> int:
        return self.memory_bytes


def set_up(case: Case, train: Examples, test: Examples) -> setup.Setup:
    """Sets up the case's training, as on GPUs."""
    names = tuple(f"/CPU:{index}" for index in range(case.gpus))
    devices = _StandIns(
        names=names,
        num_replicas=case.gpus,
        device_type="GPU",
        descriptions=names,
        memory_bytes=2**36,
    )
    network = DefaultNetwork(
        hidden_units=HIDDEN_UNITS, dropout=DROPOUT, num_tokens=case.num_tokens, num_classes=2
    )
    settings = Settings(
        batch_size=case.rows,
        implementation=case.implementation,
        precision=case.precision,
        input=case.input,
        table_optimizer=case.table,
    )
    with (
        mock.patch.object(setup, "set_up_devices", return_value=devices),
        mock.patch.object(choices, "why_unavailable", return_value=None),
    ):
        adam = keras.optimizers.Adam()
        return setup.set_up(network, Task(), adam, settings, train, test, training=True)


def lowered(case: Case) -> bytes:
    """Returns the HLO of the case's program, for the first device."""
    train, test = rows_of(case.num_tokens)
    built = set_up(case, train, test)
    if case.kind == "train":
        program, rows = built.programs._training, built.rows_to_train(train, epochs=1)
    else:
        program, rows = built.programs._evaluation, built.rows_to_evaluate(test)
    dispatches: Dispatches = rows.feed.dispatches(rows.plan)
    dispatch, batches = next(dispatches)
    first = dispatch.calls[0]
    # Functions that are traced inside call the GPU's kernels, and can only be inspected.
    with mock.patch.object(call, "platforms", return_value=("other", "CPU")):
        traced = program.traced_on(0, first, batches[first.rows][0])
        text: Any = from_concrete_function(traced)(stage="hlo_serialized", platform_name="CPU")
    return bytes(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the programs")
    parser.add_argument("--short", action="store_true", help="only those that .ci/run looks at")
    arguments = parser.parse_args()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    programs = []
    for case in cases(short=arguments.short):
        print(f"lowering {case.name}", flush=True)
        (arguments.folder / f"{case.name}.hlo").write_bytes(lowered(case))
        programs.append({"name": case.name, "num_tokens": case.num_tokens, **asdict(case)})
    write_json(arguments.folder / "programs.json", programs)


if __name__ == "__main__":
    main()
