"""How often `harness bench --against` finds a difference where there is none, and misses one.

    .venv/bin/python -m benchmarks.false_alarms --same 40 --slower 20 --slow-down 0.05

Compares a program with itself, and with itself slowed down, many times over. A false alarm is the
verdict slower or faster on a program and itself; a slowdown is found when the verdict on the slowed
program is slower. A program is slowed down from outside: while it trains, it is halted again and
again, for --slow-down of the time in which it runs. Twice as many processes as a comparison has
pairs stay loaded, halted except during their turns, and each comparison draws anew which of them
are A and B, so that properties of one process affect either side equally often.
"""

import argparse
import random
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import scipy.stats  # noqa: F401 - fails here, not after the first comparison, if it is missing

import harness
from harness.bench.effects import Effect, log_ratio, paired_effect
from harness.bench.measure import take_turns
from harness.bench.process import MeasuredProcess
from harness.bench.results import Cell, Windows
from harness.files import write_json
from harness.observe import host

_HALT_SECONDS = 0.0005
"""Several in each dispatch, so that none of them gets more than its share."""


class SlowedProcess(MeasuredProcess):
    """A process that is halted for a share of the time in which it runs, while `share` is set."""

    share = 0.0

    def turn(
        self, *, seconds: float | None = None, steps: int | None = None
    ) -> tuple[Windows, dict[str, Any]]:
        if not self.share:
            return super().turn(seconds=seconds, steps=steps)
        over = threading.Event()
        halting = threading.Thread(target=self._halt_until, args=(over,))
        halting.start()
        try:
            return super().turn(seconds=seconds, steps=steps)
        finally:
            over.set()
            halting.join()

    def _halt_until(self, over: threading.Event) -> None:
        start, halted = time.perf_counter(), 0.0
        while not over.wait(_HALT_SECONDS / 2):
            halt_start = time.perf_counter()
            ran = halt_start - start - halted
            if (owed := self.share * ran - halted) >= _HALT_SECONDS:
                self.stop()
                time.sleep(owed)
                self.go_on()
                halted += time.perf_counter() - halt_start


def main() -> None:
    arguments = _arguments()
    asked = {
        "batch_size": arguments.batch_size,
        "implementation": arguments.implementation,
        "steps_per_dispatch": arguments.steps_per_dispatch,
    }
    # Both kinds are spread over the whole time, so that neither has the quieter hour.
    kinds = {"same": arguments.same, "slower": arguments.slower}
    order = sorted(
        ((number + 0.5) / count, kind) for kind, count in kinds.items() for number in range(count)
    )
    effects: dict[str, list[Effect]] = {kind: [] for kind in kinds}
    pairs: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        data = str(Path(temporary) / "data")
        harness.load(arguments.data).save(data)
        pool = []
        for _ in range(2 * arguments.repeats):
            process = stack.enter_context(SlowedProcess({"data": data, **asked}))
            process.turn(seconds=1.0)
            process.stop()
            pool.append(process)
        cell = Cell(precision="auto", input="auto", replicas="auto", **asked)
        for _, kind in order:
            rng.shuffle(pool)
            log_ratios = []
            for repeat, (a, b) in enumerate(zip(pool[::2], pool[1::2], strict=True)):
                a.share, b.share = 0.0, arguments.slow_down if kind == "slower" else 0.0
                pair = take_turns(cell, a, b, repeat=repeat, seconds=arguments.seconds)
                log_ratios.append(log_ratio(pair.log_ratios))
            effect = paired_effect(log_ratios)
            effects[kind].append(effect)
            pairs[kind].append(log_ratios)
            print(
                f"{kind:6} {len(effects[kind]):3}/{kinds[kind]}: B / A {effect.ratio:.4f} "
                f"({effect.low:.4f} to {effect.high:.4f}), {effect.verdict}; load "
                f"{psutil.getloadavg()[0]:.1f}",
                flush=True,
            )
    alarms = sum(e.verdict != "no difference shown" for e in effects["same"])
    found = sum(e.verdict == "slower" for e in effects["slower"])
    print(f"{alarms} false alarms in {len(effects['same'])} comparisons of a program with itself")
    print(f"{found} of {len(effects['slower'])} slowdowns by {arguments.slow_down:.0%} found")
    if arguments.out:
        content = {"host": host.host(), "versions": host.versions(), "false_alarms": alarms}
        arguments_used = {k: v for k, v in vars(arguments).items() if k != "out"}
        arguments_used["data"] = Path(arguments.data).name
        content |= {"found": found, "arguments": arguments_used}
        content["ratio, low, high"] = {
            kind: [[e.ratio, e.low, e.high] for e in measured] for kind, measured in effects.items()
        }
        content["log ratio of each pair"] = pairs
        write_json(arguments.out, content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--implementation", default="auto")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--steps-per-dispatch", type=int, default=20)
    parser.add_argument("--same", type=int, default=40, help="comparisons of a program and itself")
    parser.add_argument("--slower", type=int, default=20, help="comparisons with one slowed down")
    parser.add_argument("--slow-down", type=float, default=0.05, help="as a share")
    parser.add_argument("--repeats", type=int, default=10, help="pairs of processes for each")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each pair")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the processes")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
