"""The doctor's checks of software, GPUs, kernels, TensorBoard and data sets."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Literal, NamedTuple

import pynvml
import tensorflow as tf

from harness.base.errors import as_command
from harness.cli.tensorboard import INSTALL_XPROF
from harness.data.imdb import cached_file
from harness.program.devices import Devices, set_up_devices
from harness.program.strategy import name_of
from harness.run import machine
from harness.run.telemetry import nvml
from harness.trainer import environment
from kernels.multi_hot.native.build import load, require_compiler
from kernels.multi_hot.native.product import trial_sums
from kernels.multi_hot.registry import UnavailableError


class Finding(NamedTuple):
    subject: str
    state: Literal["ok", "limited", "broken"]  # `limited` lacks an optional part
    text: str  # the result of the check, with the remedy unless the state is ok
    part: str | None = None  # what `--need` names to make `limited` count as `broken`


def examine() -> Iterator[Finding]:
    """Yields all findings, in the order in which they depend on one another."""
    versions = ", ".join(f"{package} {version}" for package, version in machine.versions().items())
    yield Finding("software", "ok", versions)
    environment.hide_too_new_gpus()
    devices = set_up_devices(len(tf.config.get_visible_devices("GPU")) or 1)
    yield from gpus(devices)
    yield Finding("devices", "ok", ", ".join(devices.descriptions))
    text = f"tf.distribute.{name_of(devices.strategy)}, with a replica on each device"
    yield Finding("strategy", "ok", text)
    yield kernels(devices.names)
    text = f"tensorboard {version('tensorboard')}: {as_command('tensorboard RUN_DIR')}"
    yield Finding("TensorBoard", "ok", text, "tensorboard")
    has_xprof = importlib.util.find_spec("xprof") is not None
    text = f"xprof is missing, for TensorBoard's Profile tab: {INSTALL_XPROF}"
    text = f"xprof {version('xprof')}" if has_xprof else text
    yield _finding("profile plugin", has_xprof, text, "profile")
    imdb = cached_file("imdb.npz")
    text = f"synthetic alone; no {imdb}: the first run with --data imdb downloads it"
    text = f"imdb at {imdb}, and synthetic" if imdb.is_file() else text
    yield _finding("data sets", imdb.is_file(), text, "data")


def _finding(subject: str, is_ok: bool, text: str, part: str | None = None) -> Finding:
    return Finding(subject, "ok" if is_ok else "limited", text, part)


def gpus(devices: Devices) -> Iterator[Finding]:
    try:
        with nvml.opened():
            text = f"{pynvml.nvmlSystemGetDriverVersion()}, for CUDA up to {nvml.cuda_version()}"
            yield Finding("NVIDIA driver", "ok", text, "gpu")
            cards, lost = nvml.cards()
            for index, card in enumerate(cards):
                text = f"{card.name}, {card.bus}, {card.uuid}"
                if card.slices is not None:
                    none = "none, so nothing can run there; nvidia-smi mig -cgi makes one"
                    text += f", in MIG mode; its slices: {', '.join(card.slices) or none}"
                yield Finding(f"GPU {index}", "broken" if card.slices == () else "ok", text, "gpu")
            for index in lost:
                text = "does not answer; the kernel's log has the reason, a line with Xid; reset "
                yield Finding(f"NVML's GPU {index}", "broken", text + "it or reboot", "gpu")
    except pynvml.NVMLError as error:
        text = nvml.words(error)
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and devices.device_type == "CPU":
            yield Finding("GPU", "limited", f"none, runs compute on the CPU. {text}", "gpu")
        else:
            yield Finding("NVIDIA driver", "broken", text, "gpu")
        return
    sees, warning = devices.device_type == "GPU", environment.gpu_warning()
    text = ", ".join(devices.descriptions) if sees else "none"
    if warning or not sees:
        why = "NVML shows no GPU that answers"
        if nvml.hides_all(os.environ):
            why = f"{nvml.VISIBLE} is {os.environ[nvml.VISIBLE]!r}, which hides all; unset it"
        text += f": {warning or why}"
    yield _finding("GPUs that TensorFlow sees", sees and not warning, text, "gpu")


def kernels(devices: Sequence[str]) -> Finding:
    """Checks whether the kernels can be built, and give right results on each device."""
    try:
        compiler = " ".join(require_compiler())
        sums = {device: trial_sums(device) for device in devices}
    except UnavailableError as error:
        return Finding("native kernels", "limited", str(error), "native")
    path, _ = load()
    if wrong := {d: found for d, found in sums.items() if found != [[20.0, 22.0], [0.0, 0.0]]}:
        text = f"{path} gives wrong sums ({wrong}): remove it and run again"
        return Finding("native kernels", "broken", text, "native")
    where = ", ".join(devices)
    return Finding("native kernels", "ok", f"run on {where}, built by {compiler}: {path}", "native")
