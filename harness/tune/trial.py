"""The parent's side of a process that trains one trial after another.

The protocol is JSON, one message a line. The first request names the device and the settings of
some trial; the process answers `ready` once these are known to be right, or `input error`. Each
further request is a trial's settings; the process answers `epoch` after each epoch, is told whether
to stop there, and answers `end` at the end, or `failed`, after which it takes the next trial.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.child import Child, ProcessEndedError

_MODULE = "harness.cli.trial_process"
Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What training a trial came to."""

    status: Literal["complete", "diverged", "failed"]
    epochs: Sequence[Metrics]
    """`loss` and every metric on the validation rows after each epoch."""
    note: str = ""
    """Why it failed."""
    has_process: bool = True
    """Whether the process can train another."""


class TrialProcess(Child):
    """A process that trains trials on one device."""

    def __init__(
        self, settings: Mapping[str, Any], *, job: int, num_jobs: int, module: str = _MODULE
    ) -> None:
        """Starts it.

        Args:
            settings: of a trial, to check, by the bare names of `TrainConfig`.
            job: its number among those that run at the same time, which chooses its GPU, or its
                share of the CPU's cores.
            num_jobs: how many there are.
            module: that serves.
        """
        super().__init__(module)
        self.send({"job": job, "num_jobs": num_jobs, "settings": settings})
        self._num_gpus: int | None = None
        self.num_trained = 0
        """Trials so far."""

    @property
    def num_gpus(self) -> int:
        """GPUs of the machine; waits until it is ready.

        Raises:
            InputError: the settings do not fit the data or the devices.
            ProcessEndedError: it ended.
        """
        if self._num_gpus is None:
            self._num_gpus = self.receive()["num_gpus"]
        return self._num_gpus

    def train(
        self, settings: Mapping[str, Any], *, is_enough: Callable[[Sequence[Metrics]], bool]
    ) -> Outcome:
        """Trains a trial.

        Args:
            settings: by the bare names of `TrainConfig`.
            is_enough: is asked after each epoch, with all so far, whether to stop there.
        """
        epochs: list[Metrics] = []
        self.num_trained += 1
        try:
            assert self.num_gpus >= 0  # it is ready
            self.send(settings)
            while (message := self.receive())["kind"] == "epoch":
                # What is not finite comes as a text.
                epochs.append({name: float(value) for name, value in message["metrics"].items()})
                self.send({"stop": is_enough(epochs)})
        except ProcessEndedError as error:
            return Outcome(status="failed", epochs=epochs, note=str(error), has_process=False)
        if message["kind"] == "failed":
            return Outcome(status="failed", epochs=epochs, note=message["why"])
        return Outcome(status="diverged" if message["diverged"] else "complete", epochs=epochs)
