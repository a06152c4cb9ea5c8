"""Checks before TensorFlow computes: which GPUs a run can use, and why not the others."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pynvml
import tensorflow as tf
from rich.console import Console
from rich.text import Text

from harness.base.errors import InputError, as_command
from harness.run.telemetry import nvml
from harness.run.telemetry.nvml import VISIBLE, Card, hides_all, visible_cards

Gpu = tuple[str, tuple[int, int] | None]  # A GPU's name and compute capability, None if unknown
CUDA_INSTALL = f"{sys.executable} -m pip install 'tensorflow[and-cuda]'"
_ON_CPU = f"The CPU computes instead; {VISIBLE}=-1 chooses it without this warning."


def is_too_new(gpu: Gpu, build: Mapping[str, Any]) -> bool:
    """Returns whether XLA would abort the process when it first compiles for this GPU (tensorflow
    111958): it uses no later PTX version than that of the CUDA it was built with."""
    if gpu[1] is None or not build["is_cuda_build"]:
        return False
    return gpu[1] >= (10, 0) and tuple(map(int, build["cuda_version"].split("."))) < (12, 8)


def unusable_gpus(
    *,
    listed: Sequence[Gpu],
    cards: Sequence[Card],
    build: Mapping[str, Any],
    environment: Mapping[str, str],
) -> str:
    """Returns a warning of the visible GPUs that a run cannot use, among those that TensorFlow
    lists and the cards that answer NVML, with the reason and the remedy; empty without any."""
    if hides_all(environment):  # on purpose
        return ""
    visible = visible_cards(cards, environment)
    if cards and not visible:
        why = "the GPUs are in MIG mode and have no slice; nvidia-smi mig -cgi makes one"
        if VISIBLE in environment:
            why = f"{VISIBLE} is '{environment[VISIBLE]}', which names no GPU of this machine"
        return f"{why}. {_ON_CPU}"
    present = [(card.name, card.compute_capability) for card in visible] or listed
    # NVML lists GPUs that TensorFlow does not, which is what the warning is about.
    too_new = [gpu for gpu in present if is_too_new(gpu, build)]
    num_usable = sum(not is_too_new(gpu, build) for gpu in listed)
    if num_usable >= len(present):
        return ""
    if not build["is_cuda_build"]:
        why = f"it is built without CUDA; {CUDA_INSTALL}"
    elif too_new:
        why = (
            f"it is built with CUDA {build['cuda_version']}, which compiles for compute capability "
            "9.x and below, and would abort; install one that is built with CUDA 12.8 or later"
        )
    else:
        why = f"if CUDA libraries are missing, {CUDA_INSTALL}; else its log has the reason: "
        why += f"TF_CPP_MIN_LOG_LEVEL=0 {as_command('doctor')}"
    shown = _in_words(too_new or present)
    warning = f"TensorFlow can use {num_usable} of {len(present)} GPUs ({shown}): {why}."
    return warning if num_usable else f"{warning} {_ON_CPU}"


def _in_words(gpus: Sequence[Gpu]) -> str:
    shown = [(name, ".".join(map(str, known or ())) or "unknown") for name, known in gpus]
    return ", ".join(f"{name}, compute capability {known}" for name, known in shown)


def _described(device: Any) -> Gpu:
    details = tf.config.experimental.get_device_details(device)
    return details.get("device_name", device.name), details.get("compute_capability")


def hide_too_new_gpus() -> None:
    """Hides from TensorFlow the GPUs for which it would abort; call it before TensorFlow starts."""
    build, gpus = tf.sysconfig.get_build_info(), tf.config.get_visible_devices("GPU")
    too_new = [gpu for gpu in gpus if is_too_new(_described(gpu), build)]
    if not too_new:
        return
    # TensorFlow takes its devices once, when it first computes.
    try:
        tf.config.set_visible_devices([gpu for gpu in gpus if gpu not in too_new], "GPU")
    except RuntimeError as error:
        shown = _in_words([_described(gpu) for gpu in too_new])
        raise InputError(
            f"TensorFlow has begun to compute in this process with GPUs that are too new for it "
            f"({shown}); hide them by {VISIBLE} before the program starts, or give the trainer a "
            "function that makes the model, and the optimizer and metrics by name"
        ) from error


def gpu_warning() -> str:
    """Returns a warning of GPUs that a run cannot use; empty without any."""
    hide_too_new_gpus()
    listed = tuple(map(_described, tf.config.list_physical_devices("GPU")))  # hidden ones as well
    cards: Sequence[Card] = ()
    trouble = ""
    try:
        with nvml.opened():
            cards, lost = nvml.cards()
            if not cards and lost:
                trouble = "No GPU answers NVML; the kernel's log has the reason, a line with Xid"
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:  # as on most CPU-only machines
            trouble = nvml.words(error)
    if trouble and not (listed or hides_all(os.environ)):
        return f"{trouble}. {_ON_CPU}"
    return unusable_gpus(
        listed=listed, cards=cards, build=tf.sysconfig.get_build_info(), environment=os.environ
    )


def warn_of_gpus(console: Console) -> None:
    if text := gpu_warning():
        console.print(Text(f"warning: {text}", "yellow"), soft_wrap=True)
