"""A source of chance for one part of a case."""

import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draw:
    """Draws from a stream that depends only on the case's seed and the part's name, so that a new
    option in one part leaves all other parts of a case unchanged."""

    def __init__(self, seed: int, part: str) -> None:
        self.rng = np.random.default_rng([seed, zlib.crc32(part.encode())])

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return bool(self.rng.random() < probability)

    def one(self, options: Sequence[T]) -> T:
        """Draws one of the options, all equally likely."""
        return options[int(self.rng.integers(len(options)))]

    def weighted(self, options: Mapping[T, float]) -> T:
        """Draws one of the options, with probabilities in proportion to their weights."""
        weights = np.array(list(options.values()), float)
        return list(options)[int(self.rng.choice(len(weights), p=weights / weights.sum()))]

    def some(self, options: Sequence[T], most: int) -> list[T]:
        """Draws between none and `most` of the options, in their order."""
        number = int(self.rng.integers(min(most, len(options)) + 1))
        return [options[i] for i in sorted(self.rng.permutation(len(options))[:number])]

    def integer(self, low: int, high: int) -> int:
        """Draws an integer in [low, high]."""
        return int(self.rng.integers(low, high, endpoint=True))

    def between(self, low: float, high: float) -> float:
        """Draws a number in [low, high), rounded to three digits for readability."""
        return float(f"{self.rng.uniform(low, high):.3g}")

    def log_between(self, low: float, high: float) -> float:
        """Draws a number in [low, high) whose logarithm is uniform."""
        return float(f"{np.exp(self.rng.uniform(np.log(low), np.log(high))):.3g}")
