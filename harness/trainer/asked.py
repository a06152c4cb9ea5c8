"""What a fit is asked for, by `Trainer.fit` or by the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
from rich.console import Console

from harness.base.checks import require, require_count
from harness.base.timeline import Timeline
from harness.data.examples import Examples
from harness.data.vocabulary import Vocabulary
from harness.trainer.callbacks import checked
from harness.trainer.settings import RunOptions, Settings

_TOGETHER = ("on_nan", "histograms", "precision_watch")
"""which decide when workers compute together."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a fit was asked for; `Trainer.fit` describes most of it."""

    train: Examples
    validation: Examples | None = None
    test: Examples | None = None  # The rows to test on, which may be those of `validation`
    epochs: int = 1
    initial_epoch: int = 0
    validation_freq: int | list[int] = 1
    shuffle: bool = True
    callbacks: Sequence[keras.callbacks.Callback] = ()
    options: RunOptions = field(default_factory=RunOptions)
    config: Mapping[str, Any] = field(default_factory=dict)  # to record; None: the trainer's
    vocabulary: Vocabulary | None = None
    console: Console | None = None  # The console to print to; None prints nothing
    timeline: Timeline = field(default_factory=Timeline)  # gets the stages of the fit

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        require_count("initial_epoch", self.initial_epoch, least=0)
        if not isinstance(self.validation_freq, list):
            require_count("validation_freq", self.validation_freq)
        require(
            self.initial_epoch < self.epochs,
            f"initial_epoch is {self.initial_epoch} and epochs is {self.epochs}, so that none is "
            "left to train; set epochs to where the last one ends",
        )
        options = self.options
        require(
            options.run_dir is not None or not options.overwrite,
            "--overwrite replaces the run in --run-dir; give it too",
        )
        # A list, whatever Keras takes: one callback, or nested lists.
        callbacks = checked(self.callbacks, run_dir=options.run_dir)
        object.__setattr__(self, "callbacks", callbacks)

    @property
    def own_validation(self) -> Examples | None:
        return None if self.validation is self.test else self.validation

    def of_worker(self) -> "Asked":
        shared = {name: getattr(self.options, name) for name in _TOGETHER}
        return replace(self, options=RunOptions(**shared, telemetry_hz=0), console=None)

    def facts(self, settings: Settings) -> dict[str, Any]:
        """Returns the facts that must be the same in all workers, by their names in messages."""
        named = {
            **asdict(settings),
            **{name: getattr(self.options, name) for name in _TOGETHER},
            "epochs": self.epochs,
            "initial epoch": self.initial_epoch,
            "validation_freq": self.validation_freq,
            "shuffle": self.shuffle,
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
        }
        parts = [self.train, *filter(None, (self.validation, self.test))]
        return {
            **{name.replace("_", " "): str(value) for name, value in named.items()},
            "the data's fingerprints": " ".join(part.fingerprint for part in parts),
        }
