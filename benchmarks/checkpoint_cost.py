"""What checkpoints cost a training: for how long they hold it up, and by how much they slow it.

    .venv/bin/python -m benchmarks.checkpoint_cost --data path/to/imdb.npz --out FILE.json

One trainer goes on training in turns, with a run folder, where every epoch ends with a checkpoint,
and without. The order changes from round to round, so that a drift of the machine favours neither.
What holds training up lies outside the windows of training steps. What slows it lies inside them:
the file is written while training goes on, and where the CPU is the device, both share it.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import harness
from benchmarks.training import timed_fit, tutorial_network
from harness.files import write_json
from harness.observe import host

_QUIET = {"tensorboard": "off", "telemetry_hz": 0, "verbose": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20, help="of a turn")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}; a range takes 2 or more")
    rows = harness.Examples.of(harness.load(arguments.data).train)
    trainer = harness.Trainer(tutorial_network, batch_size=arguments.batch_size)
    timed_fit(trainer, rows, epochs=1, **_QUIET)  # compiles
    rounds = []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.rounds):
            seconds = {}
            for folder in (None, Path(temporary) / str(number))[:: 1 if number % 2 == 0 else -1]:
                seconds[folder is None] = timed_fit(
                    trainer, rows, epochs=arguments.epochs, run_dir=folder, **_QUIET
                )
            slowed, held = (
                1e3 * (with_them - without) / arguments.epochs
                for with_them, without in zip(seconds[False], seconds[True], strict=True)
            )
            rounds.append({"held_up_ms": held, "slowed_ms": slowed, "both_ms": held + slowed})
    figures = {}
    for name in rounds[0]:
        found = [one[name] for one in rounds]
        p20, *_, p80 = statistics.quantiles(found, n=5, method="inclusive")
        figures[name] = {"median": statistics.median(found), "p20": p20, "p80": p80}
        print(f"{name}: {figures[name]['median']:.1f} a checkpoint ({p20:.1f} to {p80:.1f})")
    if arguments.out is not None:
        settings = {k: v for k, v in vars(arguments).items() if k != "out"}
        settings["data"] = Path(arguments.data).name
        content = {"settings": settings, "figures": figures, "rounds": rounds}
        write_json(arguments.out, {**content, "host": host.host(), "versions": host.versions()})


if __name__ == "__main__":
    main()
