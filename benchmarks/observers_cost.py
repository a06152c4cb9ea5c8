"""What watching a run costs: throughput with telemetry, TensorBoard and JSONL, over without any.

    .venv/bin/python -m benchmarks.observers_cost --pairs 20 --seconds 5 --out FILE.json

One session trains in turns, watched and unwatched, in the order A B, B A, A B, ... so that a drift
of the machine favours neither. A turn counts by the clock from before its first dispatch to after
its last record was handed on, so that nothing that observers take is left out. Opening and closing
files and NVML is not in it: a run pays that once. Ratios are formed within pairs. The exit code is
0 where their median is at least 0.98, or with --telemetry-only 0.99.

With --telemetry-only no file is written: what is left is what sampling itself takes. On a machine
without a GPU, --nvml-gpus N lets telemetry read so many through a library that answers from a
script (tests/harness/telemetry/nvml), its PCIe queries as slow as NVIDIA's: it needs g++.
"""

import argparse
import atexit
import itertools
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.bench import machine
from harness.bench.compare import paired_effect
from harness.commands.session import Session, build_session
from harness.commands.train import run_start
from harness.config import (
    DataConfig,
    ExecutionConfig,
    OutputConfig,
    TelemetryConfig,
    TrainConfig,
)
from harness.files import write_json
from harness.loop import train
from harness.observers.jsonl import JsonlObserver
from harness.observers.tensorboard import TensorBoardObserver
from harness.records import Observer
from harness.telemetry import host
from harness.telemetry.observer import TelemetryObserver

_BAR, _BAR_TELEMETRY_ONLY = 0.98, 0.99
_NEVER = sys.maxsize
_EPOCHS = 2**31
_READY = "OBSERVERS_COST_NVML"
"""Names the folder of the scripted library, in a process that was started with it."""


class Turns:
    """A session that trains for a time, with or without those who watch."""

    def __init__(
        self, config: TrainConfig, session: Session, folder: Path, *, with_files: bool
    ) -> None:
        self._with_files = with_files
        self._config = config
        self._session = session
        self._folder = folder
        self._dispatches = iter(session.dispatches(epochs=_EPOCHS))
        self._count = itertools.count()

    def take(self, *, watched: bool, seconds: float) -> float:
        """Trains about so long; returns examples a second."""
        session = self._session
        with ExitStack() as stack:
            observers = self._watching(stack) if watched else []
            start = time.perf_counter()
            progress = train(
                self._until(start + seconds),
                session.engine,
                [session.steps, *observers],
                steps_per_epoch=_NEVER,
            )
            taken = time.perf_counter() - start - sum(c.seconds for c in progress.compilations)
            return sum(window.examples for window in progress.windows) / taken

    def _watching(self, stack: ExitStack) -> list[Observer]:
        folder = self._folder / str(next(self._count))
        folder.mkdir()
        files: list[Observer] = []
        if self._with_files:
            files = [JsonlObserver(), TensorBoardObserver(folder / "tensorboard")]
        telemetry = TelemetryObserver(
            files,
            hz=self._config.telemetry.telemetry_hz,
            bus_ids=self._session.devices.pci_bus_ids,
        )
        observers = [telemetry, *files]
        for observer in observers:
            stack.callback(observer.close)
        stack.callback(telemetry.finish)
        record = run_start(self._config, self._session, folder, 0)
        for observer in observers:
            observer.on_start(record)
        return observers

    def _until(self, end: float) -> Iterator[tuple[Any, Any]]:
        for dispatch in self._dispatches:
            yield dispatch
            if time.perf_counter() >= end:
                return


def main() -> None:
    arguments = _arguments()
    if arguments.nvml_gpus and _READY not in os.environ:
        _start_again_with_nvml(arguments.nvml_gpus)
    if _READY in os.environ:
        atexit.register(shutil.rmtree, os.environ[_READY])
    config = TrainConfig(
        data=DataConfig(data=arguments.data),
        execution=ExecutionConfig(
            batch_size=arguments.batch_size, implementation=arguments.implementation
        ),
        output=OutputConfig(tensorboard="on"),
        telemetry=TelemetryConfig(telemetry_hz=arguments.hz),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        session = build_session(config, checkpoint_dir=folder / "checkpoints")
        turns = Turns(config, session, folder, with_files=not arguments.telemetry_only)
        for watched in (False, True):  # compiles, and imports what the observers need
            turns.take(watched=watched, seconds=1.0)
        before, load = machine.read((os.getpid(),)), machine.load_average()
        pairs = []
        for number in range(arguments.pairs):
            order = (False, True) if number % 2 == 0 else (True, False)
            rates = {w: turns.take(watched=w, seconds=arguments.seconds) for w in order}
            pairs.append({"off": rates[False], "on": rates[True]})
            print(
                f"pair {number}: {rates[False]:,.0f} off, {rates[True]:,.0f} on, "
                f"ratio {rates[True] / rates[False]:.4f}",
                file=sys.stderr,
            )
        marks = machine.marks(before, machine.read((os.getpid(),)))
    figures = _figures(pairs)
    bar = _BAR_TELEMETRY_ONLY if arguments.telemetry_only else _BAR
    content = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
        "resolved": {
            "implementation": session.choices.implementation.name,
            "input": session.choices.input.name,
            "steps_per_dispatch": session.choices.steps_per_dispatch.name,
            "devices": session.devices.descriptions,
        },
        "host": host.host(),
        "versions": host.versions(),
        "load_average_before": load,
        "marks": marks,
        "figures": figures,
        "pairs": pairs,
    }
    if arguments.out is not None:
        write_json(arguments.out, content)
    print(
        f"examples/s: {figures['off']:,.0f} off, {figures['on']:,.0f} on: medians of {len(pairs)}\n"
        f"on over off: {figures['ratio']:.4f}, 20th to 80th percentile of the pairs "
        f"{figures['ratio_p20']:.4f} to {figures['ratio_p80']:.4f}, 99 % interval of the mean "
        f"{figures['low']:.4f} to {figures['high']:.4f}\n"
        f"bar {bar}: {'met' if figures['ratio'] >= bar else 'missed'}"
    )
    for mark in marks:
        print(f"note: {mark}")
    sys.exit(0 if figures["ratio"] >= bar else 1)


def _figures(pairs: Sequence[dict[str, float]]) -> dict[str, float]:
    ratios = sorted(pair["on"] / pair["off"] for pair in pairs)
    quantiles = statistics.quantiles(ratios, n=5, method="inclusive")
    effect = paired_effect([math.log(ratio) for ratio in ratios])
    return {
        "off": statistics.median(pair["off"] for pair in pairs),
        "on": statistics.median(pair["on"] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_p20": quantiles[0],
        "ratio_p80": quantiles[3],
        "low": effect.low,
        "high": effect.high,
    }


def _start_again_with_nvml(num_gpus: int) -> None:
    """Becomes this program again, with the library where the loader looks first."""
    from tests.harness.telemetry.nvml import library

    folder = Path(tempfile.mkdtemp(prefix="observers_cost_"))
    nvml = library.Nvml(library.build(folder), folder)
    slow = {
        "pcie_rx_kilobytes_per_second": "slow 0.02 1000",
        "pcie_tx_kilobytes_per_second": "slow 0.02 1000",
    }
    nvml.write(library.system(), *(library.modern(index, **slow) for index in range(num_gpus)))
    environment = nvml.environment(**{_READY: str(folder)})
    del environment["FAKE_NVML_LOG"]  # a file for each call is no part of what is measured
    os.execve(
        sys.executable,
        [sys.executable, "-m", "benchmarks.observers_cost", *sys.argv[1:]],
        environment,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--implementation", default="auto")
    parser.add_argument("--hz", type=float, default=10.0, help="of telemetry")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--telemetry-only", action="store_true", help="watch without files")
    parser.add_argument("--nvml-gpus", type=int, default=0, help="GPUs that a scripted NVML shows")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
