"""What checkpoints cost a training: for how long they hold it up, and by how much they slow it.

    .venv/bin/python -m benchmarks.checkpoint_cost --data path/to/imdb.npz --out FILE.json
    .venv/bin/python -m benchmarks.checkpoint_cost --data path/to/imdb.npz --every 0.2s --seconds 4

One trainer goes on training in turns, with a run folder, where every epoch ends with a checkpoint,
and without. With --every, both turns have a run folder, and one of them the checkpoints that it
asks for: --every 0.2s shows what one costs, where a few would be lost in the noise. The order
changes from round to round, so that a drift of the machine favours neither. What holds training up
lies outside the windows of training steps. What slows it lies inside them: the file is written
while training goes on, and where the CPU is the device, both share it.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import harness
from benchmarks.peers.protocol import DROPOUT, HIDDEN_UNITS
from benchmarks.training import timed_fit
from harness.files import write_json
from harness.observe import host
from harness.quiet import quiet_import

with quiet_import():
    from harness.model.network import default_network

_NEVER = "10000h"
_QUIET = {"tensorboard": "off", "telemetry_hz": 0, "verbose": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20, help="of a turn")
    parser.add_argument("--every", help="as --checkpoint-every, in place of every epoch")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a turn with --every")
    parser.add_argument("--hidden-units", type=int, default=HIDDEN_UNITS[0], help="of each layer")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}; a range takes 2 or more")
    rows = harness.Examples.of(harness.load(arguments.data).train)
    network = default_network(
        hidden_units=(arguments.hidden_units,) * len(HIDDEN_UNITS),
        dropout=DROPOUT,
        num_tokens=max(sets.num_tokens for sets in rows.ragged.values()),
        num_classes=2,
    )
    trainer = harness.Trainer(network, batch_size=arguments.batch_size)
    timed_fit(trainer, rows, epochs=1, **_QUIET)  # compiles
    if arguments.every is not None:
        rounds, unit = _by_time(trainer, rows, arguments), ""
    else:
        rounds, unit = _by_epoch(trainer, rows, arguments), " ms a checkpoint"
    figures = {}
    for name in rounds[0]:
        one = [measured[name] for measured in rounds]
        p20, *_, p80 = statistics.quantiles(one, n=5, method="inclusive")
        figures[name] = {"median": statistics.median(one), "p20": p20, "p80": p80}
        print(f"{name}: {figures[name]['median']:.2f}{unit} ({p20:.2f} to {p80:.2f})")
    if arguments.out is not None:
        settings = {k: v for k, v in vars(arguments).items() if k != "out"}
        settings["data"] = Path(arguments.data).name
        content = {"settings": settings, "figures": figures, "rounds": rounds}
        write_json(arguments.out, {**content, "host": host.host(), "versions": host.versions()})


def _by_time(
    trainer: harness.Trainer, rows: harness.Examples, arguments: argparse.Namespace
) -> list[dict[str, float]]:
    """In each round: the share of the time that the checkpoints cost, what one cost, and the share
    that one every 5 s would."""

    def turn(every: str, epochs: int) -> tuple[float, int]:
        with tempfile.TemporaryDirectory() as folder:
            options = {**_QUIET, "run_dir": folder, "checkpoint_every": every, "keep": 100_000}
            seconds = sum(timed_fit(trainer, rows, epochs=epochs, overwrite=True, **options))
            return seconds, len(list(Path(folder, "checkpoints").glob("ckpt-*.npz"))) - 1

    taken, _ = turn(_NEVER, 20)
    epochs = max(1, round(20 * arguments.seconds / taken))
    rounds = []
    for number in range(arguments.rounds):
        done = {}
        for every in (arguments.every, _NEVER)[:: 1 if number % 2 == 0 else -1]:
            done[every] = turn(every, epochs)
        (with_them, count), (without, _) = done[arguments.every], done[_NEVER]
        cost_ms = 1e3 * (with_them - without) / max(count, 1)
        rounds.append(
            {
                "cost_percent": 100 * (with_them / without - 1),
                "checkpoints": count,
                "ms_a_checkpoint": cost_ms,
                "percent_every_5_s": 100 * cost_ms / 5000,
            }
        )
    return rounds


def _by_epoch(
    trainer: harness.Trainer, rows: harness.Examples, arguments: argparse.Namespace
) -> list[dict[str, float]]:
    """What the checkpoints of every epoch cost, in each round."""
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
    return rounds


if __name__ == "__main__":
    main()
