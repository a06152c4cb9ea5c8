"""NVML: opening it, the machine's cards, and messages for its errors."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pynvml

from harness.observe.visible import Card, Device

_GPU_NOT_FOUND = 28  # older releases of nvidia-ml-py have no name for it
_REMEDIES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "; libnvidia-ml.so.1 comes with NVIDIA's driver, and in a "
    "container with NVIDIA's container toolkit",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "; load the kernel's module nvidia",
    pynvml.NVML_ERROR_GPU_IS_LOST: "; the kernel's log has the reason, a line with Xid",
    # NVML's words for it end in a full stop.
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: " Its library and the kernel's module are of two "
    "drivers, as after an update; reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "; the device files /dev/nvidia* must be open to this user",
}

LOST = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        _GPU_NOT_FOUND,
    }
)
"""Errors after which a GPU no longer answers."""

UNAVAILABLE = frozenset(
    {
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
"""Errors of a query that this card, driver or user does not support."""


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """NVML, initialized; several may hold it open at a time.

    Raises:
        pynvml.NVMLError: when there is no library, or it cannot be used.
    """
    pynvml.nvmlInit()
    try:
        yield
    finally:
        # A driver that failed meanwhile was reported by the query that failed.
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def words(error: Any) -> str:
    """The message of an NVMLError, with the remedy where one is known."""
    return f"NVML says: {error}{_REMEDIES.get(error.value, '')}"


def answering() -> tuple[Any, ...]:
    """NVML's handles of the GPUs that answer, in its order.

    Raises:
        pynvml.NVMLError: when NVML does not answer.
    """
    return tuple(handle for _, handle in _all_handles() if handle is not None)


def lost() -> tuple[int, ...]:
    """NVML's numbers of the GPUs that do not answer.

    Raises:
        pynvml.NVMLError: when NVML does not answer.
    """
    return tuple(index for index, handle in _all_handles() if handle is None)


def _all_handles() -> Iterator[tuple[int, Any]]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            yield index, pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            if error.value not in LOST:
                raise
            yield index, None


def driver_cuda_version() -> tuple[int, int]:
    """The newest CUDA that the driver supports, such as (12, 5).

    Raises:
        pynvml.NVMLError: when NVML does not answer.
    """
    version = pynvml.nvmlSystemGetCudaDriverVersion()  # 12050 for 12.5
    return version // 1000, version % 1000 // 10


def cards() -> tuple[Card, ...]:
    """The GPUs that answer, in NVML's order; CUDA shows no process any other.

    Raises:
        pynvml.NVMLError: when NVML does not answer.
    """
    return tuple(map(_card, answering()))


def _card(handle: Any) -> Card:
    return Card(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        bus=pynvml.nvmlDeviceGetPciInfo(handle).busId,
        name=pynvml.nvmlDeviceGetName(handle),
        compute_capability=_compute_capability(handle),
        is_sliced=_is_sliced(handle),
        slices=tuple(pynvml.nvmlDeviceGetUUID(part) for part in _slices(handle)),
    )


def _compute_capability(handle: Any) -> tuple[int, int] | None:
    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    except pynvml.NVMLError as error:
        if error.value not in UNAVAILABLE:
            raise
        return None
    return major, minor


def _is_sliced(handle: Any) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except pynvml.NVMLError as error:
        if error.value not in UNAVAILABLE:
            raise
        return False


def _slices(handle: Any) -> Iterator[Any]:
    if not _is_sliced(handle):
        return
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except (pynvml.NVMLError_NotFound, pynvml.NVMLError_NoPermission):
            continue  # indices may have gaps, or be closed to this container


def handles(device: Device, cards: tuple[Card, ...]) -> tuple[Any, Any]:
    """NVML's handles of a device and of the card that it is, or is a slice of."""
    card = cards[device.card]
    whole = pynvml.nvmlDeviceGetHandleByUUID(card.uuid.encode())
    if device.slice is None:
        return whole, whole
    return pynvml.nvmlDeviceGetHandleByUUID(card.slices[device.slice].encode()), whole
