"""Data loaded beside the caller's own work: the same, or the same message."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.config import DataConfig, ImdbOptions, SyntheticOptions
from harness.data import store
from harness.data.beside import loading_beside
from harness.data.sources import load_configured
from harness.errors import InputError

LARGE = DataConfig(synthetic=SyntheticOptions(synthetic_rows=2_000_000))
"""Takes some seconds."""


def the_child() -> psutil.Process:
    (child,) = psutil.Process().children()
    return child


def test_it_is_what_is_loaded_otherwise(write_npz: Callable[..., Path]) -> None:
    for config in (
        DataConfig(data=str(write_npz()), imdb=ImdbOptions(held_out_rows=2), unique=False),
        DataConfig(synthetic=SyntheticOptions(synthetic_rows=50, synthetic_seed=7)),
    ):
        with loading_beside(config) as loaded:
            beside = loaded()
        here = load_configured(config)
        assert beside.name == here.name
        assert beside.is_unique == here.is_unique
        for part, expected in ((beside.train, here.train), (beside.test, here.test)):
            for field in ("values", "row_splits", "labels"):
                array = getattr(part, field)
                np.testing.assert_array_equal(array, getattr(expected, field))
                assert not array.flags.writeable
            assert part.num_classes == expected.num_classes


def test_a_folder_is_mapped_here(tmp_path: Path) -> None:
    rows = load_configured(DataConfig(synthetic=SyntheticOptions(synthetic_rows=10))).train
    store.save(rows, tmp_path / "mine", held_out_rows=2)
    with loading_beside(DataConfig(data=str(tmp_path / "mine"))) as loaded:
        assert psutil.Process().children() == []
        assert loaded().train.num_rows == 6


def test_what_is_missing_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="No file or folder"),
        loading_beside(DataConfig(data=str(tmp_path / "no.npz"))),
    ):
        raise AssertionError("it was not refused")


def test_what_is_wrong_inside_is_said_when_it_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "reviews.npz"
    path.write_bytes(b"no archive")
    with (
        loading_beside(DataConfig(data=str(path))) as loaded,
        pytest.raises(InputError, match=r"reviews.npz is truncated or not an .npz file"),
    ):
        loaded()


def test_a_process_that_is_killed() -> None:
    with loading_beside(LARGE) as loaded:
        the_child().kill()
        with pytest.raises(RuntimeError, match="loads synthetic ended with exit code -9"):
            loaded()


def test_it_ends_with_what_it_is_loaded_for() -> None:
    loading = loading_beside(LARGE)
    loading.__enter__()
    child = the_child()
    assert not loading.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not child.is_running()


def test_ctrl_c_at_any_time_says_so_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "train", "--synthetic-rows", "2000000"]
    for seconds in (0.25, 1.0):
        process = subprocess.Popen(
            [*command, "--run-dir", str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while not psutil.Process(process.pid).children():
            time.sleep(0.01)
        time.sleep(seconds)
        children = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "interrupted\n")
        assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []
