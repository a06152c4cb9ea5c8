"""The main thread's time for a dispatch, beside an engine that costs nothing:

    python -m tests.harness.trainer.main_thread

Prints the median over blocks of 100 epochs, in milliseconds a dispatch, without and with validation
rows; an epoch with some has two dispatches. No test asserts it, because machines differ.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import harness
from harness.program.model_programs import ModelPrograms
from harness.program.program import Program
from harness.program.state import State

_EPOCHS, _BLOCK, _TOKENS, _ROWS = 3000, 100, 50, 128


def _rows(seed: int) -> tuple[list[list[int]], np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = [np.unique(rng.integers(0, _TOKENS, 5)).tolist() for _ in range(_ROWS)]
    return ids, rng.integers(0, 2, _ROWS).astype(np.float32)


def _model(inputs: Any) -> Any:
    return keras.layers.Dense(1)(harness.MultiHotDense(4, _TOKENS, activation="relu")(inputs))


def _cost_nothing() -> None:
    """Lets every run of a program return what its first run did."""
    run, known = Program._run, {}

    def first_result(self: Program, loop: Any, batches: Any, *, first: int) -> list[Any]:
        if (key := (id(loop), first)) not in known:
            known[key] = run(self, loop, batches, first=first)
        return known[key]

    Program._run, State.is_finite = first_result, lambda self: True


def _milliseconds(validation: Any) -> float:
    train, starts = ModelPrograms.train, []

    def noted(self: ModelPrograms, parts: Sequence[Any]) -> Any:
        starts.append(time.thread_time())
        return train(self, parts)

    ModelPrograms.train = noted
    trainer = harness.Trainer(
        _model, batch_size=64, steps_per_dispatch=2, implementation="gather", input="resident"
    )
    trainer.fit(_rows(0), validation=validation, epochs=_EPOCHS, verbose=False)
    ModelPrograms.train = train
    blocks = np.diff(starts[len(starts) // 3 :: _BLOCK]) / _BLOCK * 1e3
    return statistics.median(blocks) / (1 if validation is None else 2)


if __name__ == "__main__":
    _cost_nothing()
    print(f"without validation rows: {_milliseconds(None):.3f} ms a dispatch")
    print(f"with validation rows: {_milliseconds(_rows(1)):.3f} ms a dispatch")
