"""The runner of hostile files: it repeats itself, and notices every kind of failure."""

import random
from pathlib import Path

import pytest

from benchmarks.faults.hostile import HostileConfig, examine
from benchmarks.faults.hostile_formats import FORMATS
from benchmarks.faults.hostile_worker import Trial, damaged
from tests.benchmarks.faults import hostile_samples


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("checkpoint", "keras", "config")])
def test_damage_is_a_function_of_the_seed(name: str, tmp_path: Path) -> None:
    made = FORMATS[name]()
    contents = []
    for seed in (1, 1, 2):
        for flips in (True, False):
            folder = tmp_path / f"{len(contents)}"
            folder.mkdir()
            made.write(folder)
            path = folder / made.targets[0]
            how = damaged(random.Random(seed), path, flips=flips)
            contents.append((how, path.read_bytes() if path.is_file() else None))
    assert contents[:2] == contents[2:4] != contents[4:]


@pytest.mark.parametrize("name", ["npz", "store", "metrics", "toml"])
def test_files_of_a_format(name: str, tmp_path: Path) -> None:
    trial = Trial(FORMATS[name](), name, tmp_path)
    verdicts = [trial.run(1, index, flips=index % 2 == 0) for index in range(1, 20)]
    assert [v for v in verdicts if v["failure"]] == []
    assert {"refused"} <= {v["outcome"] for v in verdicts}


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("careful", None),
        ("traceback", "KeyError: 'a'"),
        ("believes", "another answer is believed"),
        ("prints", "it prints a warning"),
        ("writes", "a file was changed"),
        ("memory", "it takes 1,"),
    ],
)
def test_what_a_process_notices(name: str, failure: str | None, tmp_path: Path) -> None:
    trial = Trial(hostile_samples.BAD[name](), name, tmp_path)
    verdicts = [trial.run(5, index, flips=True) for index in range(1 if name == "memory" else 20)]
    failures = {verdict["failure"] for verdict in verdicts if verdict["outcome"] == "failed"}
    assert (failure is None) == (not failures)
    assert all(failure in found for found in failures)


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("hangs", "the process took more than 0 s"),
        ("dies", "the process ended (exit code 139)"),
        ("traceback", "KeyError: 'a'"),
    ],
)
def test_what_is_noticed_of_a_process(name: str, failure: str, tmp_path: Path) -> None:
    config = HostileConfig(files=1, seed=5, flips=True, limit_seconds=0.2, keep=str(tmp_path))
    report = examine(f"{hostile_samples.__name__}:BAD:{name}", config)
    assert report.outcomes == {"failed": 1}
    assert failure in report.failures[0]
    assert len(list(tmp_path.iterdir())) == (name == "traceback")
