"""The regret of `auto`: its speed over that of the best explicit choice, on drawn shapes.

    python -m benchmarks.regret --shapes 24 --seed 0

Each shape has random batches, lengths, vocabulary, width and classes, with ids as frequent as words
(Zipf). Every implementation and table optimizer that gives Adam's result trains some steps in turns
with `auto`, in one process; compilation is not counted. A ratio of 1 means that `auto` was as fast
as the fastest. Where `auto` chose the fastest, both ran one program, and the ratio is the noise:
the choice's own ratio, in parentheses, is 1 there.
"""

import collections
import statistics
from dataclasses import dataclass

import numpy as np
import tyro

import harness
from harness.base.errors import InputError
from harness.model.network import DefaultNetwork

_MOST_ELEMENTS, _MOST_IDS = 2**26, 2**20
_ENDS = ((16, 8192), (4, 300), (2_000, 2**20), (16, 1024), (2, 200))  # of a shape's numbers
_EXPLICIT = (("native", "exact_adam"), ("native", "dense"), ("gather", "dense"), ("dense", "dense"))
"""Implementations and table optimizers. Other optimizers of touched rows are not Adam."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to draw, and how often to measure."""

    shapes: int = 24
    seed: int = 0
    rounds: int = 3
    seconds: float = 0.5  # The least length of a measurement


@dataclass(frozen=True)
class Shape:
    """A drawn training."""

    rows: int  # Rows of a batch
    ids: int  # Mean ids of a row
    num_tokens: int
    units: int
    classes: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Shape":
        """Draws a shape that fits a small machine."""
        low, high = np.log2(_ENDS).T
        while True:
            shape = cls(*np.exp2(rng.uniform(low, high)).astype(int).tolist())
            fits = shape.num_tokens * shape.units <= _MOST_ELEMENTS
            if fits and shape.rows * shape.ids <= _MOST_IDS:
                return shape

    def data(self, rng: np.random.Generator) -> harness.RaggedSets:
        """Draws rows of eight batches."""
        lengths = rng.poisson(self.ids, 8 * self.rows).clip(1)
        ids = np.exp(rng.uniform(0, np.log(self.num_tokens), lengths.sum())).astype(np.int32) - 1
        return harness.RaggedSets(
            values=ids,
            row_splits=np.concatenate([[0], np.cumsum(lengths)]),
            labels=rng.integers(0, self.classes, len(lengths), dtype=np.int32),
            num_tokens=self.num_tokens,
            num_classes=self.classes,
        ).unique()

    def trainer(self, **settings: str) -> harness.Trainer:
        """Returns a trainer of one hidden layer."""
        network = DefaultNetwork(
            hidden_units=(self.units,),
            dropout=(0.5,),
            num_tokens=self.num_tokens,
            num_classes=self.classes,
        )
        return harness.Trainer(network, task="auto", batch_size=self.rows, **settings)


def speeds(shape: Shape, config: Config, rng: np.random.Generator) -> tuple[str, dict[str, float]]:
    """Returns what `auto` chose, and the median examples/s of `auto` and of each explicit choice
    that can train the shape."""
    data, trainers = shape.data(rng), {"auto": shape.trainer()}
    for implementation, optimizer in _EXPLICIT:
        if implementation == "dense" and shape.rows * shape.num_tokens > _MOST_ELEMENTS:
            continue
        trainers[f"{implementation}, {optimizer}"] = shape.trainer(
            implementation=implementation, table_optimizer=optimizer
        )
    epochs, found = {}, collections.defaultdict(list)
    for name, trainer in list(trainers.items()):
        try:
            for _ in range(2):  # the second runs what the first has compiled
                trainer.fit(data, epochs=1, verbose=False, telemetry_hz=0)
        except InputError:
            del trainers[name]
            continue
        assert trainer.last is not None
        assert trainer.last.progress is not None
        seconds = trainer.last.progress.windows.train_seconds
        epochs[name] = max(1, round(config.seconds / max(seconds, 1e-3)))
    for _ in range(config.rounds):
        for name, trainer in trainers.items():
            trainer.fit(data, epochs=epochs[name], verbose=False, telemetry_hz=0)
            assert trainer.last is not None
            assert trainer.last.progress is not None
            windows = trainer.last.progress.windows
            found[name].append(windows.examples / windows.train_seconds)
    assert trainers["auto"].last is not None
    choices = trainers["auto"].last.start.choices
    chosen = f"{choices['implementation'].name}, {choices['table_optimizer'].name}"
    return chosen, {name: statistics.median(taken) for name, taken in found.items()}


def main(config: Config) -> None:
    """Prints a line for each shape, and how many reach 0.9 and 0.75 of the best: `auto` itself, and
    its choice as an explicit one, which is 1 where that was the fastest."""
    rng, measured, by_choice = np.random.default_rng(config.seed), [], []
    for _ in range(config.shapes):
        shape = Shape.drawn(rng)
        chosen, found = speeds(shape, config, rng)
        ours = found.pop("auto")
        best = max(found, key=found.__getitem__)
        measured.append(ours / found[best])
        by_choice.append(found[chosen] / found[best])
        print(
            f"{shape.rows:5} rows of {shape.ids:3} ids, {shape.num_tokens:9,} x {shape.units:4}, "
            f"{shape.classes:3} classes: {chosen}: {measured[-1]:.2f} ({by_choice[-1]:.2f}) of "
            f"{best}, {found[best]:,.0f} examples/s",
            flush=True,
        )
    for least in (0.9, 0.75):
        counts = (sum(r >= least for r in ratios) for ratios in (measured, by_choice))
        print(f"at least {least}: {next(counts)} of {len(measured)}; the choice: {next(counts)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
