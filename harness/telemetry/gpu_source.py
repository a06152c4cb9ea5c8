"""The GPUs, sampled through NVML."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil
import pynvml

from harness.telemetry import nvml
from harness.telemetry.gpu import GpuReader, LostError
from harness.telemetry.sampler import Message, Read, Tell
from harness.telemetry.visible import (
    Card,
    Device,
    devices_at,
    is_order_known,
    visible_devices,
)


@contextlib.contextmanager
def gpus(
    tell: Tell,
    *,
    bus_ids: Sequence[str],
    environment: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Read]:
    """`gpu/<index>/*` of every GPU in use.

    Args:
        tell: told what is left out and why, what ended, and who else is on the GPUs.
        bus_ids: PCI addresses of TensorFlow's GPUs, by its numbers. Empty where it computes on the
            CPU: then it is every GPU that CUDA would show this process.
        environment: has the CUDA_* variables.
        clock: seconds, rising.
    """
    try:
        opened = contextlib.ExitStack()
        opened.enter_context(nvml.opened())
        cards = nvml.cards()
        readers = _readers(bus_ids, cards, environment, tell)
    except pynvml.NVMLError as error:
        _tell_unavailable(error, bus_ids, tell)
        readers = []
    with opened:
        yield _Gpus(readers, tell, clock, in_use=bool(bus_ids)).read


def _tell_unavailable(error: Any, bus_ids: Sequence[str], tell: Tell) -> None:
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and not bus_ids:
        return  # a machine without NVIDIA's driver, as most CPU-only ones are
    text = f"no GPU is sampled, training goes on. {nvml.words(error)}"
    tell(Message(kind="warning", text=text))


def _readers(
    bus_ids: Sequence[str], cards: tuple[Card, ...], environment: Mapping[str, str], tell: Tell
) -> list[GpuReader]:
    def warn(text: str) -> None:
        tell(Message(kind="warning", text=text))

    for index in nvml.lost():
        warn(f"NVML's GPU {index} does not answer, and is not sampled")
    devices: tuple[Device | None, ...]
    if bus_ids:
        devices = devices_at(bus_ids, cards, environment)
        for bus_id, device in zip(bus_ids, devices, strict=True):
            if device is None:
                warn(f"NVML knows no GPU at {bus_id}, where TensorFlow has one: it is not sampled")
    else:
        devices = visible_devices(cards, environment)
        _tell_of_unused(devices, cards, environment, tell)
    return [
        GpuReader(index, device, cards, warn=warn)
        for index, device in enumerate(devices)
        if device is not None
    ]


def _tell_of_unused(
    devices: Sequence[Device | None],
    cards: tuple[Card, ...],
    environment: Mapping[str, str],
    tell: Tell,
) -> None:
    if not devices:
        return
    text = "TensorFlow computes on the CPU; gpu/* are the GPUs that CUDA would show this process"
    if not is_order_known(cards, environment):
        text += (
            ", in the order of their PCI addresses, which need not be CUDA's: they are of different"
            " models (set CUDA_DEVICE_ORDER=PCI_BUS_ID to make it so)"
        )
    tell(Message(kind="note", text=text))


class _Gpus:
    """Reads all GPUs; of the slow queries one GPU's in each turn, so that turns stay short."""

    def __init__(
        self,
        readers: list[GpuReader],
        tell: Tell,
        clock: Callable[[], float],
        *,
        in_use: bool,
    ) -> None:
        self._in_use = in_use
        self._readers = readers
        self._tell = tell
        self._clock = clock
        self._turn = -1  # the first reading asks everything, to know what is not supported

    def read(self) -> dict[str, float] | None:
        figures: dict[str, float] = {}
        slow = self._turn % len(self._readers) if self._readers else 0
        for place, reader in enumerate(list(self._readers)):
            with_slow = self._turn < 0 or place == slow
            try:
                read = reader.read(self._clock(), with_slow=with_slow)
            except LostError as error:
                text = f"GPU {reader.index} is sampled no more, training goes on. {error}"
                self._tell(Message(kind="warning", text=text))
                self._readers.remove(reader)
                continue
            figures |= {f"gpu/{reader.index}/{name}": value for name, value in read.items()}
            if self._turn < 0:
                self._introduce(reader)
        self._turn += 1
        return figures if self._readers else None

    def _introduce(self, reader: GpuReader) -> None:
        """What is worth knowing of a GPU once."""
        name = f"GPU {reader.index} ({reader.name})"
        try:
            others = other_processes(reader.handle, in_use=self._in_use)
        except pynvml.NVMLError:
            reader.left_out.append("processes")
            others = []
        if others:
            text = f"{name} is also used by {', '.join(others)}: its figures are of all together"
            self._tell(Message(kind="warning", text=text))
        sentences = []
        if reader.left_out:
            sentences.append(f"does not tell, so these are left out: {', '.join(reader.left_out)}")
        if reader.integrates_power:
            sentences.append("has no counter of energy, which is summed from samples of its power")
        if reader.is_slice:
            sentences.append(
                "is a slice: power, temperature, clocks, PCIe traffic and ECC errors are the whole "
                "card's, energy is left out"
            )
        for sentence in sentences:
            self._tell(Message(kind="note", text=f"{name} {sentence}"))


def other_processes(handle: Any, *, in_use: bool) -> list[str]:
    """Who else computes on a GPU, one text for each process.

    NVML counts processes as the host does. Within a container those of others have no name, and
    this one is not to be told from them: where it is `in_use` by this one, one of them is it.

    Raises:
        pynvml.NVMLError: when NVML cannot tell.
    """
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    known = any(process.pid == os.getpid() for process in processes)
    others, nameless = [], []
    for process in processes:
        if process.pid == os.getpid():
            continue
        held = "" if process.usedGpuMemory is None else f", {process.usedGpuMemory / 1e9:.1f} GB"
        try:
            name = psutil.Process(process.pid).name()
            others.append(f"process {process.pid} ({name}{held})")
        except psutil.Error:
            nameless.append(f"process {process.pid} (not visible from here{held})")
    if nameless and in_use and not known:
        nameless.pop()
        nameless = [f"{text}, or this run in its place" for text in nameless]
    return others + nameless
