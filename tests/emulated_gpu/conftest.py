"""Builds the emulated device, or skips what runs on it."""

import pytest

from tests.emulated_gpu import device


@pytest.fixture(autouse=True, scope="session")
def built() -> None:
    try:
        device.build()
    except device.UnavailableError as error:
        pytest.skip(str(error))
