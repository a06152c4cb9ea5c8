"""Readings of GPUs and notes on them, by the unmodified nvidia-ml-py from a scripted library."""

from pathlib import Path

import pytest

from tests.emulated_gpu import nvml as library
from tests.emulated_gpu.nvml import Nvml
from tests.harness.run.telemetry.reading import Told, read_gpus


def indices(told: Told) -> set[str]:
    return {tag.split("/")[1] for tag in told.first}


def test_every_figure_of_a_modern_card(nvml: Nvml) -> None:
    nvml.write(library.system(), library.modern(0))
    told = read_gpus(nvml, "0000:17:00.0", times=2)
    expected = {
        "utilization_percent": 50.0,
        "memory_utilization_percent": 20.0,
        "memory_used_bytes": 1e9,
        "power_watts": 250.0,
        "temperature_celsius": 40.0,
        "sm_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
    }
    assert told.first == {f"gpu/0/{name}": value for name, value in expected.items()}
    assert told.readings[1] == told.first
    assert told.notes == told.warnings == []


def test_a_card_in_slices_is_not_sampled(nvml: Nvml) -> None:
    sliced = library.modern(0, mig_mode=1)
    nvml.write(library.system(), sliced, library.slice_of(0, 0))
    told = read_gpus(nvml, "0000:17:00.0", CUDA_VISIBLE_DEVICES="MIG-0")
    assert told.readings == [{}]
    assert told.warnings == ["the GPU at 0000:17:00.0 is in MIG mode: it is not sampled"]


def test_tensorflows_gpus_are_told_by_their_address_whatever_their_order(nvml: Nvml) -> None:
    cards = (library.modern(i, power_milliwatts=100_000 + 1000 * i) for i in range(3))
    nvml.write(library.system(), *cards)
    told = read_gpus(nvml, "0000:19:00.0", "0000:99:00.0", "0000:17:00.0")
    assert told.first["gpu/0/power_watts"] == 102.0
    assert told.first["gpu/2/power_watts"] == 100.0
    assert indices(told) == {"0", "2"}
    assert told.warnings == ["the GPU at 0000:99:00.0 is not known to NVML: it is not sampled"]


def test_a_gpu_that_is_lost_is_told_once_and_asked_again(nvml: Nvml) -> None:
    cards = (library.system(), library.modern(0), library.modern(1), library.old(2))
    nvml.write(*cards)

    def lose() -> None:
        nvml.library.unlink()
        nvml.write(*cards, [f"gpu1.* = error {library.ERROR_GPU_IS_LOST}"])

    told = read_gpus(nvml, "0000:17:00.0", "0000:18:00.0", "0000:19:00.0", times=3, then=lose)
    assert indices(told) == {"0", "1", "2"}
    assert [sum(tag.startswith("gpu/1/") for tag in each) for each in told.readings] == [7, 0, 0]
    assert all("gpu/0/power_watts" in each for each in told.readings)
    (warning,) = told.warnings
    assert warning.startswith("GPU 1 failed to report utilization_percent, training continues. ")
    assert told.notes == [
        "GPU 2 (NVIDIA Old 10) does not support these metrics: utilization_percent, "
        "memory_utilization_percent, power_watts"
    ]


def test_other_processes_are_told(nvml: Nvml) -> None:
    told = "GPU 0 (NVIDIA Fake 100) is used by 2 processes: its metrics are of all"
    for processes, warnings in (("4711 999999999", [told]), ("4711", [])):
        nvml.write(library.system(), library.modern(0, processes=processes))
        assert read_gpus(nvml, "0000:17:00.0").warnings == warnings


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (library.ERROR_LIB_RM_VERSION_MISMATCH, "are of two drivers, as after an update; reboot"),
        (library.ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
    ],
)
def test_a_driver_that_does_not_work(nvml: Nvml, error: int, words: str) -> None:
    nvml.write(library.system(driver_version=f"error {error}"), library.modern(0))
    told = read_gpus(nvml, "0000:17:00.0")
    assert told.readings == [{}]
    (warning,) = told.warnings
    assert warning.startswith("no GPU is sampled, training continues. NVML says: ")
    assert words in warning


def test_no_library_is_worth_a_word_only_where_tensorflow_has_gpus(
    nvml: Nvml, tmp_path: Path
) -> None:
    # The loader stops at a file that is no library: none of the machine's own is found behind it.
    (tmp_path / nvml.library.name).write_bytes(b"no library")
    elsewhere = {"LD_LIBRARY_PATH": str(tmp_path)}
    assert read_gpus(nvml, times=1, **elsewhere) == Told(readings=[{}], notes=[], warnings=[])
    (warning,) = read_gpus(nvml, "0000:17:00.0", times=1, **elsewhere).warnings
    assert "libnvidia-ml.so.1 comes with NVIDIA's driver" in warning
