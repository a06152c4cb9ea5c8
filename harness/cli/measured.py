"""`python -m harness.cli.measured`: a process that `harness bench` measures. It reads the settings
from standard input, builds and compiles what `harness train` would train with them, and trains for
a turn at each request. harness/tools/bench/measure.py describes the messages."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from harness.base.checks import require
from harness.base.child import OWN_CODE, end_with_parent
from harness.base.decoding import from_mapping
from harness.base.errors import InputError
from harness.base.files import json_text
from harness.base.memory import OutOfMemoryError, collect_rarely
from harness.base.quiet import quiet_import
from harness.run import machine
from harness.run.records import Message, Observer, Record, Window
from harness.run.telemetry.recorder import TelemetryRecorder
from harness.tools.bench.measure import OWN_MODEL_PROTOCOL, PROTOCOL_VERSION
from harness.tools.experiment import TrainConfig, trainer_of

if TYPE_CHECKING:
    from harness import Dataset, Trainer

_EPOCHS = 2  # the number of epochs with their own order of rows; these orders repeat


class _Windows(Observer):
    """Keeps the windows and warnings of a turn: sending them meanwhile would take time from the
    next."""

    def __init__(self) -> None:
        self.taken: list[Window] = []
        self.warnings: list[str] = []

    def tell(self, record: Record) -> None:
        match record:
            case Window():
                self.taken.append(record)
            case Message(kind="warning", text=text):
                self.warnings.append(text)


def main() -> None:
    """Serves one parent until it closes standard input, or ends while this process is stopped."""
    end_with_parent(signal.SIGKILL)
    collect_rarely()
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what libraries print must not garble the answers
        try:
            with quiet_import():
                import tensorflow as tf
            _serve(channel)
        except InputError as error:
            kind = "out of memory" if isinstance(error, OutOfMemoryError) else "input error"
            _write(channel, kind, message=error.args[0])
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            message = str(error).partition("\n")[0] or "Python had none left"
            _write(channel, "out of memory", message=message)


def _write(channel: TextIO, kind: str, **content: Any) -> None:
    channel.write(json_text({"kind": kind, **content}) + "\n")


def _serve(channel: TextIO) -> None:
    import tensorflow as tf

    from harness.data.sources import load_configured
    from harness.trainer.environment import gpu_warning

    job = json.loads(sys.stdin.readline())
    if job["protocol"] not in (PROTOCOL_VERSION, OWN_MODEL_PROTOCOL):
        raise InputError(
            f"{OWN_CODE} measures by protocol {PROTOCOL_VERSION}, not {job['protocol']}; compare "
            "versions that share one"
        )
    config = from_mapping(TrainConfig, job["settings"], where="the benchmark's settings")
    # Built as `harness train` builds it, by the same function.
    data = load_configured(config.data)
    given = None if "own_model" not in job else own_model(job["own_model"])
    trainer = trainer_of(config, data, config.execution, epochs=config.epochs, network=given)
    steps = trainer.steps(data.train, epochs=_EPOCHS)
    compile_seconds = sum(made.seconds for made in steps.compile())
    resolved: dict[str, Any] = {name: one.value for name, one in steps.start.choices.items()}
    resolved |= {"devices": steps.start.devices, "batch_size": steps.start.batch_size}
    if warning := gpu_warning():
        resolved["warnings"] = [warning]
    _write(channel, "ready", code=str(OWN_CODE), resolved=resolved)
    channel.flush()
    gpus = trainer.devices.names if trainer.devices.device_type == "GPU" else ()
    hz, bus_ids, num_examples = config.output.telemetry_hz, trainer.devices.pci_bus_ids, 0
    with TelemetryRecorder(hz=hz, bus_ids=bus_ids, lasting=True) as telemetry:
        for line in sys.stdin:
            if (job := json.loads(line)).get("limits"):
                try:
                    _write(channel, "limits", **_limits(trainer, data, resolved))
                except tf.errors.ResourceExhaustedError:
                    _write(channel, "limits")
                channel.flush()
                continue
            windows = _Windows()
            end = time.perf_counter() + job["seconds"]
            progress = steps.run(
                until=lambda: time.perf_counter() >= end,  # noqa: B023
                observers=(windows,),
                telemetry=telemetry,
            )
            compile_seconds += sum(made.seconds for made in progress.compilations)
            num_examples += progress.windows.examples
            for window in windows.taken:
                names = ("seconds", "num_steps", "examples", "data_wait_seconds")
                _write(channel, "window", **{name: getattr(window, name) for name in names})
            peaks = [tf.config.experimental.get_memory_info(name[1:])["peak"] for name in gpus]
            joules = progress.telemetry.joules
            _write(
                channel,
                "turn",
                compile_seconds=compile_seconds,
                peak_rss_bytes=machine.peak_rss_bytes(),
                peak_device_bytes=sum(peaks) if gpus else None,
                gpus=progress.telemetry.gpus,
                warnings=windows.warnings,
                joules_per_1000_examples=None if joules is None else 1000 * joules / num_examples,
            )
            channel.flush()  # a turn's windows go together, so the parent wakes up once


def _limits(trainer: Trainer, data: Dataset, resolved: Mapping[str, Any]) -> dict[str, float]:
    from harness.tools.bench.limits import limits

    return limits(
        trainer.model,
        data.train,
        num_rows=-(-resolved["batch_size"] // len(trainer.devices.names)),
        device=trainer.devices.names[0],
        chosen=resolved,
    )


def own_model(named: str) -> Any:
    """Returns what `module:function` names: a function from inputs to outputs, or a Keras model."""
    module, colon, attribute = named.partition(":")
    remedy = "give MODULE:FUNCTION, as in my_models:wide, from the folder that the module lies in"
    require(bool(colon), f"--own-model is {named!r}; {remedy}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"--own-model is {named!r}: {error}; {remedy}") from error
    require(hasattr(found, attribute), f"{module} has no {attribute!r}; {remedy}")
    return getattr(found, attribute)


if __name__ == "__main__":
    main()
