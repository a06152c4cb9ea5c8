"""Trains a case by two workers: separate processes, each with half of every batch.

On a CPU `replicas=2` is one program, and XLA has an all-reduce only for GPUs: without GPUs, only
workers train on two devices.
"""

import io
import os
import pickle
import sys
import tempfile
from pathlib import Path

import harness
from benchmarks.differential.case import Case, draw_case
from benchmarks.differential.training import Trained, here
from harness.workers.cluster import cluster_of
from harness.workers.launcher import run_job

WORKERS = 2


def by_workers(case: Case) -> Trained:
    """Trains a case by two workers; returns the results of the first.

    Raises:
        InputError: when the workers refuse the case.
        RuntimeError: when a worker fails, with its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.differential"]
        command += ["--member", str(case.seed), folder]
        out = io.StringIO()
        code = run_job(WORKERS, command, out=out, errors=out)
        written = Path(folder) / "0"
        if code or not written.exists():
            raise RuntimeError(f"the workers ended with {code}: {out.getvalue()[-1500:]}")
        found = pickle.loads(written.read_bytes())
    if isinstance(found, str):
        raise harness.InputError(found)
    assert isinstance(found, Trained)
    return found


def be_member(seed: int, folder: str) -> int:
    """Trains the case of a seed, in a worker process, and writes the results."""
    # Join the other worker here: the trainer can do so only before TensorFlow computes anything,
    # but is given models and optimizers that are made already.
    cluster_of(os.environ).start(num_gpus=0)
    try:
        found: Trained | str = here(draw_case(seed))
    except harness.InputError as error:
        found = str(error)
    index = cluster_of(os.environ).index
    (Path(folder) / str(index)).write_bytes(pickle.dumps(found))
    return 0
