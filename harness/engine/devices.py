"""Devices and the strategy that spreads a batch over them."""

import contextlib
import functools
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf
from tensorflow.python.client import device_lib

from harness.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where a run computes."""

    strategy: tf.distribute.Strategy
    names: tuple[str, ...]
    """TensorFlow's names, one for each replica, such as `/GPU:0`."""
    device_type: Literal["CPU", "GPU"]
    descriptions: tuple[str, ...]
    """For people: the name and, for a GPU, its model."""
    compute_capability: tuple[int, int] | None
    """The weakest GPU's; None on CPU or where TensorFlow does not know it."""

    pci_bus_ids: tuple[str, ...] = ()
    """One for each GPU, such as `0000:17:00.0`, by which NVML knows it too, or `unknown`; none on
    CPU."""

    memory_bytes: int
    """Of one device; logical CPU devices share the machine's."""

    @property
    def num_replicas(self) -> int:
        """Devices in use."""
        return len(self.names)


def set_up_devices(replicas: Literal["auto"] | int) -> Devices:
    """Chooses the devices, lets GPU memory grow on demand, and builds the strategy.

    `auto` takes every GPU, or one CPU device where there is none; a number takes the first so many
    GPUs, or makes so many logical CPU devices. Call it before anything else touches TensorFlow.

    Raises:
        InputError: when more replicas are asked for than the machine has GPUs, or than a CPU that
            TensorFlow already runs on was split into.
    """
    gpus = tf.config.get_visible_devices("GPU")  # not those that `smoke` hides
    if gpus:
        return _on_gpus(gpus, len(gpus) if replicas == "auto" else replicas)
    return _on_cpu(1 if replicas == "auto" else replicas)


def _on_gpus(gpus: list[tf.config.PhysicalDevice], replicas: int) -> Devices:
    if replicas > len(gpus):
        raise InputError(
            f"--replicas is {replicas} but this machine shows {len(gpus)} GPUs to TensorFlow; set "
            f"--replicas to {len(gpus)} or less, or hide them with CUDA_VISIBLE_DEVICES= to use CPU"
        )
    used = gpus[:replicas]
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in used]
    capabilities = [d["compute_capability"] for d in details if "compute_capability" in d]
    names = tuple(f"/GPU:{index}" for index in range(replicas))
    local = [d for d in device_lib.list_local_devices() if d.device_type == "GPU"]
    return Devices(
        strategy=_strategy(names),
        names=names,
        device_type="GPU",
        descriptions=tuple(
            f"{name} {d.get('device_name', 'of unknown model')}"
            for name, d in zip(names, details, strict=True)
        ),
        compute_capability=min(capabilities) if len(capabilities) == replicas else None,
        pci_bus_ids=tuple(map(_pci_bus_id, local[:replicas])),
        memory_bytes=min(device.memory_limit for device in local),
    )


def _pci_bus_id(device: Any) -> str:
    """From TensorFlow's own description, `device: 0, name: ..., pci bus id: ..., ...`."""
    match = re.search(r"pci bus id: ([^,\s]+)", device.physical_device_desc)
    return "unknown" if match is None else match[1]


def _on_cpu(replicas: int) -> Devices:
    (cpu,) = tf.config.list_physical_devices("CPU")
    if replicas > 1 and tf.config.get_logical_device_configuration(cpu) is None:
        # TensorFlow raises where it runs already; what it has then is judged below.
        with contextlib.suppress(RuntimeError):
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
            )
    logical = len(tf.config.list_logical_devices("CPU"))
    if logical < replicas:
        raise InputError(
            f"--replicas is {replicas} but TensorFlow was already started with {logical} logical "
            "CPU devices in this process; their number cannot change afterwards"
        )
    names = tuple(f"/CPU:{index}" for index in range(replicas))
    return Devices(
        strategy=_strategy(names),
        names=names,
        device_type="CPU",
        descriptions=names,
        compute_capability=None,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // replicas,
    )


# Made once for each set of devices: two strategies would hand out the same keys for their
# collective operations, and a second network of other shapes in the process would fail.
@functools.lru_cache
def _strategy(names: tuple[str, ...]) -> tf.distribute.Strategy:
    if len(names) == 1:
        return tf.distribute.OneDeviceStrategy(names[0])
    if all("CPU" in name for name in names):
        # No collectives on CPU: their keys also collide between sets of 2 and of 3 devices, and
        # logical devices share their memory anyway.
        reduction = tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(list(names), cross_device_ops=reduction)
    return tf.distribute.MirroredStrategy(list(names))
