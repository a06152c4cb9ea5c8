"""Telemetry of a run: samplers in the background, joined to windows as they are told."""

import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness.records import (
    Compilation,
    Evaluation,
    Observer,
    RunStart,
    Spread,
    Window,
    WindowTelemetry,
)
from harness.telemetry import host_source
from harness.telemetry.join import EnergyMeter, spreads
from harness.telemetry.sampler import Read, Sample, Sampler, Tell
from harness.telemetry.visible import hides_all

STOP_SECONDS = 3.0
"""How long the end of a run waits for a sampler that is within a call."""
SILENT_SECONDS = 15.0
"""After so long within a call it is said; NVML may take many seconds to open on large machines."""


@dataclass(frozen=True, kw_only=True)
class MachineUse:
    """What a run took of its GPUs."""

    num_gpus: int
    joules: float | None
    """In the windows, of all GPUs; None where that is not known."""


class TelemetryObserver(Observer):
    """Samples GPUs and host while a run trains, and tells the run's other observers.

    It stands before them: a window's telemetry is handed on before they get the window itself.
    Samples count for the window in whose time they were complete; a window without one has no
    telemetry, and what is sampled between windows (compilation, evaluation, saving) is in none.

    NVML is called on the sampler's thread alone. What it says of lost GPUs, of cards that lack a
    query, of other processes comes as a warning or note with the next record.
    """

    def __init__(
        self,
        listeners: Sequence[Observer],
        *,
        hz: float,
        bus_ids: Sequence[str],
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Args:
        listeners: the run's other observers.
        hz: samples a second; 0 samples nothing.
        bus_ids: PCI addresses of the GPUs that the run trains on; empty on CPU.
        environment: has the CUDA_* variables.
        clock: the loop's.
        """
        self._listeners = listeners
        self._bus_ids = bus_ids
        self._environment = environment
        self._clock = clock
        self._energy = EnergyMeter()
        self._gpus_seen: set[str] = set()
        self._silent: set[Sampler] = set()
        self._finished = False
        self._gpus: Sampler | None = None
        self._samplers: tuple[Sampler, ...] = ()
        if hz > 0:
            host = Sampler(
                "host", functools.partial(host_source.host, clock=clock), hz=hz, clock=clock
            )
            self._samplers = (host,)
        if hz > 0 and (bus_ids or not hides_all(environment)):
            self._gpus = Sampler("GPUs", self._open_gpus, hz=hz, clock=clock)
            self._samplers = (*self._samplers, self._gpus)

    def on_start(self, run: RunStart) -> None:
        """Starts sampling, so that NVML is open before the first program is compiled."""
        for sampler in self._samplers:
            sampler.start()

    def on_compilation(self, compilation: Compilation) -> None:
        """Hands on what there is to tell."""
        self._pass_messages_on()

    def on_window(self, window: Window) -> None:
        """Hands on what was sampled in the window, and what there is to tell."""
        self._pass_messages_on()
        end = window.ended_at_seconds
        start = end - window.seconds
        self._energy.add_window(start, end)
        figures: dict[str, Spread] = {}
        for sampler in self._samplers:
            figures |= spreads(self._take(sampler, until=end), start, end)
        if figures:
            telemetry = WindowTelemetry(step=window.step, figures=figures)
            for listener in self._listeners:
                listener.on_telemetry(telemetry)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Hands on what there is to tell."""
        self._pass_messages_on()

    def finish(self) -> MachineUse:
        """Stops sampling, after the last window; says what never returned."""
        self._finished = True
        for sampler in self._samplers:
            if not sampler.stop(STOP_SECONDS):
                self._warn(
                    f"telemetry of the {sampler.name} has had no answer for "
                    f"{sampler.silent_seconds:.0f} s: its thread is left behind, and what it would "
                    "have sampled since is missing"
                )
            self._take(sampler, until=math.inf)
        self._pass_messages_on()
        num_gpus = len(self._bus_ids) or len(self._gpus_seen)
        joules = self._energy.joules(num_gpus)
        return MachineUse(num_gpus=num_gpus, joules=joules)

    def close(self) -> None:
        """Ends the samplers of a run that failed before it was finished."""
        for sampler in self._samplers:
            sampler.stop(0.0 if self._finished else STOP_SECONDS)

    def _open_gpus(self, tell: Tell) -> AbstractContextManager[Read]:
        # Imported on the sampler's thread: no run waits for it, and one without GPUs never does.
        from harness.telemetry.gpu_source import gpus

        return gpus(tell, bus_ids=self._bus_ids, environment=self._environment, clock=self._clock)

    def _take(self, sampler: Sampler, *, until: float) -> Sequence[Sample]:
        samples = sampler.take(until)
        if sampler is self._gpus:
            for sample in samples:
                self._energy.add_sample(sample)
                self._gpus_seen |= {tag.split("/")[1] for tag in sample.figures}
        return samples

    def _pass_messages_on(self) -> None:
        for sampler in self._samplers:
            for message in sampler.messages():
                for listener in self._listeners:
                    if message.kind == "warning":
                        listener.on_warning(message.text)
                    else:
                        listener.on_note(message.text)
            if sampler.silent_seconds > SILENT_SECONDS and sampler not in self._silent:
                self._silent.add(sampler)
                self._warn(
                    f"telemetry of the {sampler.name} has had no answer for "
                    f"{sampler.silent_seconds:.0f} s and stands still; training goes on"
                )

    def _warn(self, text: str) -> None:
        for listener in self._listeners:
            listener.on_warning(text)
