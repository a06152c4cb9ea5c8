"""What watching a run costs: throughput with telemetry, TensorBoard and progress bar, over without.

    .venv/bin/python -m benchmarks.observers_cost --rounds 20 --seconds 5 --out FILE.json

One trainer goes on training in turns, watched (on) and unwatched (off). The order changes from
round to round, so that a drift of the machine favours neither. A turn's time lasts until its last
record has been written, so that it includes what runs in the background; opening and closing files
and NVML, which a run does once, is not in it. Ratios are formed within rounds. The exit code is 0
where the median of on over off is at least 0.98, or with --telemetry-only 0.99.

With --telemetry-only no file is written and nothing printed: what is left is the cost of sampling.
On a machine without a GPU, --nvml-gpus N lets telemetry read N of them through a library that
answers from a script (tests/harness/observe/nvml), its PCIe queries as slow as NVIDIA's: it needs
g++.
"""

import argparse
import io
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

import harness
from benchmarks.training import timed_fit, tutorial_network
from harness.bench.effects import paired_effect
from harness.bench.measure import marks_between, read_clocks
from harness.files import write_json
from harness.observe import host

_BAR, _BAR_TELEMETRY_ONLY = 0.98, 0.99
_SCRIPTED = "OBSERVERS_COST_NVML"
"""Set in a process that was started with the scripted library."""


def main() -> int:
    arguments = _arguments()
    if arguments.nvml_gpus and _SCRIPTED not in os.environ:
        return _run_with_nvml(arguments.nvml_gpus)
    rows = harness.Examples.of(harness.load(arguments.data).train)
    trainer = harness.Trainer(
        tutorial_network, batch_size=arguments.batch_size, implementation=arguments.implementation
    )
    with tempfile.TemporaryDirectory() as temporary:

        def rate(way: str, epochs: int, number: int) -> float:
            options: dict[str, Any] = {"telemetry_hz": 0, "verbose": False}
            if way == "on":
                options["telemetry_hz"] = arguments.hz
            if way == "on" and not arguments.telemetry_only:
                # A terminal, whose bar is drawn ten times a second, costs more than lines do.
                console = Console(file=io.StringIO(), force_terminal=True)
                folder = str(Path(temporary) / str(number))
                options |= {"verbose": True, "console": console, "tensorboard": folder}
            return epochs * rows.num_rows / sum(timed_fit(trainer, rows, epochs=epochs, **options))

        for way in ("off", "on", "off"):  # compiles, and imports what watching needs
            epochs = max(1, round(arguments.seconds * rate(way, 1, -1) / rows.num_rows))
        before, load = read_clocks(()), psutil.getloadavg()[0]
        rounds = []
        for number in range(arguments.rounds):
            order = ("off", "on") if number % 2 == 0 else ("on", "off")
            rounds.append({way: rate(way, epochs, number) for way in order})
            print(
                f"round {number}: {rounds[-1]['off']:,.0f} off, {rounds[-1]['on']:,.0f} on",
                file=sys.stderr,
            )
        marks = marks_between(before, read_clocks(()))
    ratios = [one["on"] / one["off"] for one in rounds]
    effect = paired_effect([math.log(ratio) for ratio in ratios])
    p20, *_, p80 = statistics.quantiles(ratios, n=5, method="inclusive")
    figures = {
        "off": statistics.median(one["off"] for one in rounds),
        "on": statistics.median(one["on"] for one in rounds),
        "ratio": statistics.median(ratios),
        "ratio_p20": p20,
        "ratio_p80": p80,
        "low": effect.low,
        "high": effect.high,
    }
    print(
        f"on: {figures['on']:,.0f} examples/s, {figures['ratio']:.4f} of off; 20th to 80th "
        f"percentile of {len(rounds)} rounds {p20:.4f} to {p80:.4f}"
    )
    bar = _BAR_TELEMETRY_ONLY if arguments.telemetry_only else _BAR
    met = figures["ratio"] >= bar
    print(f"bar {bar}: {'met' if met else 'missed'}")
    for mark in marks:
        print(f"note: {mark}")
    if arguments.out is not None:
        assert trainer.last is not None
        content = {
            "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
            "resolved": {name: choice.value for name, choice in trainer.last.start.choices.items()},
            "devices": trainer.devices.descriptions,
            "load_average_before": load,
            "marks": marks,
            "figures": figures,
            "rounds": rounds,
        }
        content["settings"]["data"] = Path(arguments.data).name
        write_json(arguments.out, {**content, "host": host.host(), "versions": host.versions()})
    return 0 if met else 1


def _run_with_nvml(num_gpus: int) -> int:
    """Runs this program again, with the scripted library where the loader looks first."""
    from tests.harness.observe.nvml import library

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        nvml = library.Nvml(library.build(folder), folder)
        slow = {
            f"pcie_{way}_kilobytes_per_second": "slow 0.02 1000"  # seconds, and the answer
            for way in ("rx", "tx")
        }
        nvml.write(library.system(), *(library.modern(index, **slow) for index in range(num_gpus)))
        environment = nvml.environment(**{_SCRIPTED: "1"})
        del environment["FAKE_NVML_LOG"]  # a file for each call is no part of what is measured
        command = [sys.executable, "-m", "benchmarks.observers_cost", *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--implementation", default="auto")
    parser.add_argument("--hz", type=float, default=10.0, help="of telemetry")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, about")
    parser.add_argument("--telemetry-only", action="store_true", help="watch without files")
    parser.add_argument("--nvml-gpus", type=int, default=0, help="GPUs that a scripted NVML shows")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}; an interval takes 2 or more")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
