"""How often `harness bench --against` finds a difference where there is none, and misses one.

    .venv/bin/python -m benchmarks.false_alarms --same 40 --slower 20 --slow-down 5%

Compares a program with itself, and with itself slowed down by a sleep after each dispatch, many
times over. A false alarm is a verdict, slower or faster, on a program and itself; found is the
verdict "slower" on a program that was slowed down. Twice as many processes as a comparison has
pairs stay loaded, halted unless they have their turn, and each comparison draws anew which of them
are A and B: what a process owes to its luck is as likely on either side. With --fresh each
comparison starts processes of its own, as the command does; that takes several times as long.
"""

import argparse
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path

import scipy.stats  # noqa: F401 - the comparisons need it: it shall not be missed after the first

from harness.bench.against import Side, measure_pair, take_turns
from harness.bench.compare import Effect, log_ratio, paired_effect
from harness.bench.jobs import job, write_data
from harness.bench.machine import load_average
from harness.bench.process import MeasuredProcess
from harness.bench.sweep import cells
from harness.config import DataConfig
from harness.config.bench import BenchConfig, GridConfig, parse_share
from harness.data.sources import load_configured
from harness.files import write_json
from harness.telemetry import host


def main() -> None:
    arguments = _arguments()
    config = BenchConfig(
        data=DataConfig(data=arguments.data),
        grid=GridConfig(
            batch_size=(arguments.batch_size,),
            implementation=(arguments.implementation,),
            steps_per_dispatch=(arguments.steps_per_dispatch,),
        ),
        repeats=arguments.repeats,
        seconds=arguments.seconds,
    )
    dataset = load_configured(config.data)
    (cell,) = cells(config.grid, rows=dataset.train.num_rows)
    slow_down = parse_share("--slow-down", arguments.slow_down)
    # Both kinds spread over the whole time: neither has the quieter hour.
    kinds = {"same": arguments.same, "slower": arguments.slower}
    order = sorted(
        ((number + 0.5) / count, kind) for kind, count in kinds.items() for number in range(count)
    )
    effects: dict[str, list[Effect]] = {kind: [] for kind in kinds}
    pairs: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        data = Path(temporary) / "data"
        write_data(dataset, data)
        task = job(config, cell, data)
        pool: list[MeasuredProcess] = []
        while not arguments.fresh and len(pool) < 2 * config.num_repeats:
            pool.append(stack.enter_context(MeasuredProcess(task)))
            pool[-1].turn(seconds=1.0)
            pool[-1].stop()
        for _, kind in order:
            slowed = slow_down if kind == "slower" else 0.0
            log_ratios = []
            rng.shuffle(pool)
            for repeat in range(config.num_repeats):
                measured = (
                    measure_pair(
                        cell,
                        Side(job=task),
                        Side(job=task, slow_down=slowed),
                        repeat=repeat,
                        seconds=config.seconds,
                    )
                    if arguments.fresh
                    else take_turns(
                        *pool[2 * repeat : 2 * repeat + 2],
                        seconds=config.seconds,
                        slow_downs=(0.0, slowed),
                    )
                )
                log_ratios.append(log_ratio(measured.log_ratios, measured.num_warm_up))
            effect = paired_effect(log_ratios)
            effects[kind].append(effect)
            pairs[kind].append(log_ratios)
            print(
                f"{kind:6} {len(effects[kind]):3}/{kinds[kind]}: B / A {effect.ratio:.4f} "
                f"({effect.low:.4f} to {effect.high:.4f}), {effect.verdict}; load "
                f"{load_average():.1f}",
                flush=True,
            )
    alarms = sum(e.verdict != "no difference shown" for e in effects["same"])
    found = sum(e.verdict == "slower" for e in effects["slower"])
    print(f"{alarms} false alarms in {len(effects['same'])} comparisons of a program and itself")
    print(f"{found} of {len(effects['slower'])} found where one was slowed by {slow_down:.0%}")
    if arguments.out:
        content = {"host": host.host(), "versions": host.versions(), "false_alarms": alarms}
        settings = {k: v for k, v in vars(arguments).items() if k != "out"}
        content |= {"found": found, "arguments": settings | {"data": dataset.name}}
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
    parser.add_argument("--slow-down", default="5%")
    parser.add_argument("--repeats", type=int, default=10, help="pairs of processes for each")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each pair")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the processes")
    parser.add_argument("--fresh", action="store_true", help="start processes for each comparison")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
