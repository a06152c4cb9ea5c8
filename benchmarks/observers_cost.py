"""What watching a run costs: throughput with telemetry, TensorBoard and JSONL, over without any.

    .venv/bin/python -m benchmarks.observers_cost --rounds 20 --seconds 5 --out FILE.json

One session trains in turns: unwatched (off), watched as `harness train` is, in the background (on),
and watched by observers that are told between the dispatches (in line). The order changes from
round to round, so that a drift of the machine favours none. A turn counts by the clock from before
its first dispatch to after its last record was told, so that nothing that observers take is left
out. Opening and closing files and NVML is not in it: a run pays that once. Ratios are formed within
rounds. The exit code is 0 where the median of on over off is at least 0.98, or with
--telemetry-only 0.99.

Also shown is for how long the device has no work: from the end of a dispatch to the call that
starts the next, the wait for data left out.

With --telemetry-only no file is written: what is left is what sampling itself takes. On a machine
without a GPU, --nvml-gpus N lets telemetry read so many through a library that answers from a
script (tests/harness/telemetry/nvml), its PCIe queries as slow as NVIDIA's: it needs g++.
"""

import argparse
import atexit
import io
import itertools
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.background import Background
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
from harness.engine.engine import Engine
from harness.files import write_json
from harness.loop import train
from harness.observers.background import BackgroundObserver
from harness.observers.console import ConsoleObserver
from harness.observers.jsonl import JsonlObserver
from harness.observers.tensorboard import TensorBoardObserver
from harness.records import Compilation, Observer, StepSums
from harness.telemetry import host
from harness.telemetry.observer import TelemetryObserver

_BAR, _BAR_TELEMETRY_ONLY = 0.98, 0.99
_WAYS = ("off", "in line", "on")
_ORDERS = (_WAYS, _WAYS[::-1])
_NEVER = sys.maxsize
_EPOCHS = 2**31
_READY = "OBSERVERS_COST_NVML"
"""Names the folder of the scripted library, in a process that was started with it."""


class Gaps:
    """An engine that notes for how long it had nothing to do between two dispatches."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended = math.nan
        self._waited = 0.0
        self.seconds: list[float] = []
        """Of each gap, the wait for data left out."""

    def noting_waits(self, dispatches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The dispatches; the time that each takes to come is none of the gap's."""
        remaining = iter(dispatches)
        while True:
            start = time.perf_counter()
            ready = next(remaining, None)
            self._waited = time.perf_counter() - start
            if ready is None:
                return
            yield ready

    def prepare(self, dispatch: Any, batches: Any) -> Compilation | None:
        compilation = self._engine.prepare(dispatch, batches)
        if compilation is not None:
            self._ended = math.nan
        return compilation

    def train(self, dispatch: Any, batches: Any) -> Any:
        if not math.isnan(self._ended):
            self.seconds.append(time.perf_counter() - self._ended - self._waited)
        return self._engine.train(dispatch, batches)

    def fetch(self, sums: Any) -> StepSums:
        fetched = self._engine.fetch(sums)
        self._ended = time.perf_counter()
        return fetched

    def evaluate(self, *, step: int, epoch: int) -> Any:
        return self._engine.evaluate(step=step, epoch=epoch)

    def inspect(self, dispatch: Any, batches: Any) -> Any:
        return self._engine.inspect(dispatch, batches)

    def save(self, step: int) -> bool:
        return self._engine.save(step)


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

    def take(self, way: str, *, seconds: float) -> dict[str, float]:
        """Trains about so long, watched in one of `_WAYS`; returns examples a second, and of the
        gaps median and 95th percentile, in milliseconds."""
        session = self._session
        background = Background()
        gaps = Gaps(session.engine)
        with ExitStack() as stack:
            observers = [] if way == "off" else self._watching(stack)
            stack.enter_context(background)  # ends before those who watch
            if way == "on":
                observers = [BackgroundObserver(observers, background)]
            start = time.perf_counter()
            progress = train(
                gaps.noting_waits(self._until(start + seconds)),
                gaps,
                [session.steps, *observers],
                steps_per_epoch=_NEVER,
            )
            background.wait()
            taken = time.perf_counter() - start - sum(c.seconds for c in progress.compilations)
        percentiles = statistics.quantiles(gaps.seconds, n=20, method="inclusive")
        return {
            "rate": sum(window.examples for window in progress.windows) / taken,
            "gap_ms_p50": 1e3 * percentiles[9],
            "gap_ms_p95": 1e3 * percentiles[18],
        }

    def _watching(self, stack: ExitStack) -> list[Observer]:
        folder = self._folder / str(next(self._count))
        folder.mkdir()
        files: list[Observer] = []
        if self._with_files:
            board = folder / "tensorboard"
            # A terminal, which costs more than lines: the bar is drawn ten times a second.
            terminal = Console(file=io.StringIO(), force_terminal=True)
            console = ConsoleObserver(terminal, tensorboard_dir=board)
            files = [JsonlObserver(), TensorBoardObserver(board), console]
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
        for way in _WAYS:  # compiles, and imports what the observers need
            turns.take(way, seconds=1.0)
        before, load = machine.read((os.getpid(),)), machine.load_average()
        rounds = []
        for number, order in zip(range(arguments.rounds), itertools.cycle(_ORDERS)):
            rounds.append({way: turns.take(way, seconds=arguments.seconds) for way in order})
            rates = ", ".join(f"{rounds[-1][way]['rate']:,.0f} {way}" for way in _WAYS)
            print(f"round {number}: {rates}", file=sys.stderr)
        marks = machine.marks(before, machine.read((os.getpid(),)))
    figures = {way: _figures(rounds, way) for way in _WAYS}
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
        "rounds": rounds,
    }
    if arguments.out is not None:
        write_json(arguments.out, content)
    for way, of in figures.items():
        print(
            f"{way}: {of['rate']:,.0f} examples/s, {of['ratio']:.4f} of off, 20th to 80th "
            f"percentile of {len(rounds)} rounds {of['ratio_p20']:.4f} to {of['ratio_p80']:.4f}; "
            f"between dispatches {of['gap_ms_p50']:.2f} ms, 95th percentile "
            f"{of['gap_ms_p95']:.2f} ms"
        )
    met = figures["on"]["ratio"] >= bar
    print(f"bar {bar}: {'met' if met else 'missed'}")
    for mark in marks:
        print(f"note: {mark}")
    sys.exit(0 if met else 1)


def _figures(rounds: Sequence[dict[str, dict[str, float]]], way: str) -> dict[str, float]:
    ratios = sorted(one[way]["rate"] / one["off"]["rate"] for one in rounds)
    quantiles = statistics.quantiles(ratios, n=5, method="inclusive")
    effect = paired_effect([math.log(ratio) for ratio in ratios]) if way != "off" else None
    return {
        **{name: statistics.median(one[way][name] for one in rounds) for name in rounds[0][way]},
        "ratio": statistics.median(ratios),
        "ratio_p20": quantiles[0],
        "ratio_p80": quantiles[3],
        "low": effect.low if effect else 1.0,
        "high": effect.high if effect else 1.0,
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
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--telemetry-only", action="store_true", help="watch without files")
    parser.add_argument("--nvml-gpus", type=int, default=0, help="GPUs that a scripted NVML shows")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
