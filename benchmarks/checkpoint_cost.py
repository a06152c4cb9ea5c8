"""For how long a checkpoint holds training up, and what it costs the dispatch that runs meanwhile.

    .venv/bin/python -m benchmarks.checkpoint_cost --data path/to/imdb.npz --out FILE.json

One session trains dispatch by dispatch. Before some of them a checkpoint is saved: as a run does,
written in the background, or in line, waiting for the file. The order changes from round to round.
Shown is the time of `save` and that of the dispatch after it, over one without any checkpoint.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from harness.commands.session import Session, build_session
from harness.config import DataConfig, ExecutionConfig, TrainConfig
from harness.files import write_json
from harness.telemetry import host

_WAYS = ("none", "in line", "background")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    config = TrainConfig(
        data=DataConfig(data=arguments.data),
        execution=ExecutionConfig(batch_size=arguments.batch_size, steps_per_dispatch=80),
    )
    with tempfile.TemporaryDirectory() as temporary:
        session = build_session(config, checkpoint_dir=Path(temporary))
        with session.background:
            rounds = measure(session, arguments.rounds)
    print(f"{'checkpoint':<12}{'save':>10}{'the dispatch after it':>25}")
    for way in _WAYS:
        save_ms, dispatch_ms = (
            statistics.median(one[way][name] for one in rounds)
            for name in ("save_ms", "dispatch_ms")
        )
        ratio = statistics.median(o[way]["dispatch_ms"] / o["none"]["dispatch_ms"] for o in rounds)
        print(f"{way:<12}{save_ms:>7.1f} ms{dispatch_ms:>15.1f} ms, x {ratio:.3f}")
    if arguments.out is not None:
        content = {"batch_size": arguments.batch_size, "steps_per_dispatch": 80, "rounds": rounds}
        write_json(arguments.out, {**content, "host": host.host(), "versions": host.versions()})


def measure(session: Session, num_rounds: int) -> list[dict[str, dict[str, float]]]:
    """For each round and way, the milliseconds of `save` and of the dispatch after it."""
    engine = session.engine
    dispatches = iter(session.dispatches(epochs=2**31))
    numbers = itertools.count(1)

    def save(way: str) -> float:
        start = time.perf_counter()
        if way != "none":
            engine.save(next(numbers))
        if way == "in line":
            session.background.wait()
        return 1e3 * (time.perf_counter() - start)

    def train() -> float:
        dispatch, batches = next(dispatches)
        while engine.prepare(dispatch, batches) is not None:  # one that was compiled is no measure
            dispatch, batches = next(dispatches)
        start = time.perf_counter()
        engine.fetch(engine.train(dispatch, batches))
        return 1e3 * (time.perf_counter() - start)

    for way in _WAYS:  # what a first checkpoint has to set up
        train()
        save(way)
    rounds = []
    for number in range(num_rounds):
        figures = {}
        for way in _WAYS if number % 2 == 0 else _WAYS[::-1]:
            session.background.wait()
            train()
            save_ms = save(way)
            figures[way] = {"save_ms": save_ms, "dispatch_ms": train()}
        rounds.append(figures)
    return rounds


if __name__ == "__main__":
    main()
