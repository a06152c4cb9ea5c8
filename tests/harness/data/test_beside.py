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
from tests.conftest import PROJECT_ROOT

LARGE = DataConfig(synthetic=SyntheticOptions(synthetic_rows=200_000))
"""Takes some seconds, and is just not too large."""


def the_child() -> psutil.Process:
    (child,) = psutil.Process().children()
    return child


def test_it_is_what_is_loaded_otherwise(write_npz: Callable[..., Path]) -> None:
    words = write_npz().with_name("words.json")
    words.write_text('{"the": 1, "film": 2}')
    for config in (
        DataConfig(
            data=str(write_npz()),
            imdb=ImdbOptions(held_out_rows=2),
            unique=False,
            word_index=words,
        ),
        DataConfig(synthetic=SyntheticOptions(synthetic_rows=50, synthetic_seed=7)),
    ):
        with loading_beside(config) as loaded:
            beside = loaded()
        here = load_configured(config)
        assert beside.name == here.name
        assert beside.is_unique == here.is_unique
        if here.vocabulary is not None:
            assert beside.vocabulary is not None
            assert beside.vocabulary.decode([1, 4, 5]) == here.vocabulary.decode([1, 4, 5])
        for part, expected in ((beside.train, here.train), (beside.test, here.test)):
            for field in ("values", "row_splits", "labels"):
                array = getattr(part, field)
                np.testing.assert_array_equal(array, getattr(expected, field))
                assert not array.flags.writeable
            assert part.num_classes == expected.num_classes


def test_what_is_large_is_loaded_here() -> None:
    large = SyntheticOptions(synthetic_rows=200_001)
    with loading_beside(DataConfig(synthetic=large)) as loaded:
        assert psutil.Process().children() == []
        assert loaded().train.num_rows + loaded().test.num_rows == 200_001


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


def test_it_takes_no_module_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy.py", "harness.py", "zipfile.py"):
        (tmp_path / name).write_text("raise SystemExit('run by mistake')")
    monkeypatch.chdir(tmp_path)
    with loading_beside(DataConfig(synthetic=SyntheticOptions(synthetic_rows=10))) as loaded:
        assert loaded().train.num_rows == 8


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_process_that_waits(number: signal.Signals) -> None:
    program = """
import time
from tests.harness.data.test_beside import LARGE, loading_beside
with loading_beside(LARGE):
    print(flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=PROJECT_ROOT,
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    while child.cpu_times().user < 0.2:  # it is loading
        time.sleep(0.01)
    parent.send_signal(number)
    assert parent.communicate()[1] == b""
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def test_it_ends_with_what_it_is_loaded_for() -> None:
    loading = loading_beside(LARGE)
    loading.__enter__()
    child = the_child()
    assert not loading.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not child.is_running()


def test_ctrl_c_at_any_time_says_so_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", "train", "--synthetic-rows", "200000"]
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
        # Killed by the signal is the same to a shell: so CPython ends where the interrupt came in
        # `exec` of a text, as a dataclass's making is, though it was caught and told.
        assert process.returncode in (130, -signal.SIGINT)
        assert (out, err) == ("", "interrupted\n")
        assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []
