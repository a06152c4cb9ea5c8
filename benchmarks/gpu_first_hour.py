"""The first hour on a machine with GPUs: a report on everything that could not be checked without a
GPU.

    ./scripts/gpu-first-hour [--data DATA] [--rows N] [--out gpu-first-hour.md]

Every part runs in separate processes, so that a failure does not keep the others from running; the
report is rewritten after each part. `--rows 2000` makes it short, on synthetic data, with smaller
batches as well. It runs on the emulated device of tests/emulated_gpu, too.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.trainer.settings import PRECISIONS
from kernels.files import replacing

_ROOT = Path(__file__).resolve().parents[1]
_HARNESS = (sys.executable, "-m", "harness")
_TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 2e-2, "mixed_float16": 5e-3}
"""The relative tolerance of every loss of a run against the CPU's in float32, by precision."""
# No dropout, whose masks depend on the device, and no ReLU, at whose kinks runs diverge by chance.
_COMPARABLE = (
    *("--dropout", "0", "--activation", "gelu", "--epochs", "2", "--deterministic"),
    *("--steps-per-dispatch", "8"),  # there is one loss a dispatch: at the same steps everywhere
)
_MANY_ROWS = 2_000_000
_TIMEOUT_SECONDS = "1200"  # after which `timeout` ends a command, with exit code 124
_IS_EMULATED = "EMULATED_GPU_DEVICES" in os.environ
_NEEDED = ("native",) if _IS_EMULATED else ("native", "gpu")  # the emulated device has no CUPTI

Part = Callable[["Machine"], str]  # It returns its section, as Markdown, or raises a FailedError


class FailedError(Exception):
    """A part found a fault; the message is its section of the report."""


class Machine:
    """Runs commands on the data of the report."""

    def __init__(self, data: str, *, rows: int | None = None, num_gpus: int) -> None:
        self.data = ["--data", data]
        self.much_data = list(self.data)
        """The flags of data with so many rows that single dispatches do not decide a rate."""
        if data == "synthetic":
            few = ["--synthetic-rows", str(rows), "--synthetic-tokens", "1000"]
            self.data += [] if rows is None else few
            self.much_data += ["--synthetic-rows", str(_MANY_ROWS)] if rows is None else few
        self.num_gpus = num_gpus
        self.is_short = rows is not None
        small, large = (500, 4096) if rows is None else (max(1, rows // 16), max(2, rows // 4))
        self.batch_sizes = str(small), str(large)

    def run(self, *command: str, environment: dict[str, str] | None = None) -> str:
        """Runs a command; returns its output, fenced. Raises a `FailedError` if it fails."""
        shown = " ".join(Path(word).name if word.startswith("/") else word for word in command)
        limit = [] if _IS_EMULATED else ["timeout", _TIMEOUT_SECONDS]
        done = subprocess.run(
            [*limit, *command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        report = f"`{shown}` (exit code {done.returncode})\n\n```\n{done.stdout.strip()}\n```\n"
        if done.returncode:
            raise FailedError(report)
        return report

    def bench(self, *flags: str, environment: dict[str, str] | None = None) -> str:
        """Runs `harness bench`; returns its output."""
        repeats = "1" if self.is_short else "3"
        with tempfile.TemporaryDirectory() as folder:
            return self.run(
                *(*_HARNESS, "bench", *self.much_data, "--repeats", repeats),
                *("--run-dir", folder, "--batch-size", *self.batch_sizes, *flags),
                environment=environment,
            )

    def losses(self, *flags: str, on_cpu: bool = False, workers: int = 1) -> list[float]:
        """Trains; returns the losses of the run's dispatches and evaluations, in order."""
        launch = () if workers == 1 else ("launch", "--workers", str(workers), "--")
        with tempfile.TemporaryDirectory() as folder:
            environment = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
            command = [*_HARNESS, *launch, "train", *self.data, "--run-dir", folder]
            command += ["--batch-size", self.batch_sizes[0], *flags]
            self.run(*command, environment=environment)
            lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        names = ("loss", "validation_loss")
        return [float(line[n]) for line in map(json.loads, lines) for n in names if n in line]


def cuda_kernels(machine: Machine) -> str:
    """Tests the contract of the multi-hot product on the CUDA kernels."""
    where = _ROOT / "tests" / "kernels" / "multi_hot" / "cuda" / "test_on_gpu.py"
    # The tests' own settings would hide the GPUs, and keep XLA from optimizing machine code.
    every = ",".join(map(str, range(machine.num_gpus)))
    environment = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", every)}
    environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    command = (sys.executable, "-m", "pytest", "-rs", str(where))
    return complete(machine.run(*command, environment=environment))


def every_precision(machine: Machine) -> str:
    replicas = ("1", "2") if machine.num_gpus > 1 else ("1",)
    return complete(machine.run(*_HARNESS, "smoke", "--replicas", *replicas))


def one_against_the_cpu(machine: Machine) -> str:
    flags = [*_COMPARABLE, "--replicas", "1"]
    expected = machine.losses(*flags, "--precision", "float32", on_cpu=True)
    rows = []
    for precision, implementation in itertools.product(PRECISIONS, ("gather", "dense", "native")):
        own = ["--precision", precision, "--implementation", implementation]
        found = machine.losses(*flags, *own)
        rows.append((f"{implementation}, {precision}", expected, found, _TOLERANCES[precision]))
    for optimizer in ("adagrad", "lazy_adam", "exact_adam"):
        own = [*flags, "--precision", "float32", "--table-optimizer", optimizer]
        own += ["--implementation", "native"]
        by_cpu, found = machine.losses(*own, on_cpu=True), machine.losses(*own)
        rows.append((f"native, {optimizer}", by_cpu, found, _TOLERANCES["float32"]))
    found = machine.losses(*flags, "--precision", "float32", "--input", "stream")
    rows.append(("stream", expected, found, _TOLERANCES["float32"]))
    return compared(rows)


def every_command(machine: Machine) -> str:
    """Runs the other commands, most of them on a table of texts; `tune` with a job on each GPU."""
    with tempfile.TemporaryDirectory() as folder:
        texts, run = Path(folder) / "texts.csv", str(Path(folder) / "run")
        rows = [f"good {n % 7},yes\nbad {n % 5},no\n" for n in range(200)]
        texts.write_text("text,label\n" + "".join(rows))
        batches = ("--batch-size", machine.batch_sizes[0])
        train = ("train", "--data", str(texts), *batches, "--run-dir", run, "--recipe", "tutorial")
        recipe = ("train", "--data", str(texts), "--run-dir", folder + "/recipe")
        commands = (
            *(() if machine.is_short else (recipe,)),  # which trains a few candidates
            (*train, "--epochs", "1"),
            (*train, "--epochs", "2", "--resume"),
            ("evaluate", "--model", run),
            ("predict", "--model", run, "--texts", "good 3", "bad 4", "new"),
            ("export", "--model", run, "--out", str(Path(folder) / "exported")),
            ("tune", *machine.data, *batches, "--trials", "2", "--run-dir", folder + "/search"),
        )
        return "\n".join(machine.run(*_HARNESS, *command) for command in commands)


def two_against_one(machine: Machine) -> str:
    flags = [*_COMPARABLE, "--precision", "float32"]
    one, two = (machine.losses(*flags, "--replicas", count) for count in ("1", "2"))
    rates = machine.bench("--replicas", "1", "2")
    return compared([("two replicas", one, two, _TOLERANCES["float32"])]) + "\n" + rates


def two_workers(machine: Machine, all_reduce: str) -> str:
    flags = [*_COMPARABLE, "--precision", "float32", "--replicas", "1"]
    one = machine.losses(*flags)
    two = machine.losses(*flags, "--all-reduce", all_reduce, workers=2)
    return compared([(f"two workers, {all_reduce}", one, two, _TOLERANCES["float32"])])


def throughput(machine: Machine) -> str:
    """Measures every implementation, and `native` without CUDA graphs."""
    kinds = ("--implementation", "gather", "dense", "native", "--precision", *PRECISIONS[:2])
    own = ("--implementation", "native", "--precision", "float32")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    with_graphs = machine.bench("--replicas", "1", *kinds)
    without = machine.bench("--replicas", "1", *own, environment={"XLA_FLAGS": flags})
    return f"{with_graphs}\nWithout CUDA graphs:\n\n{without}"


def profile(machine: Machine) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = (*_HARNESS, "profile", *machine.data, "--run-dir", folder)
        return machine.run(*command, "--batch-size", machine.batch_sizes[0])


_PARTS: tuple[tuple[str, Part, int], ...] = (
    ("CUDA kernels", cuda_kernels, 1),
    ("Doctor", lambda machine: machine.run(*_HARNESS, "doctor", "--need", *_NEEDED), 1),
    ("Every precision", every_precision, 1),
    ("One GPU against the CPU", one_against_the_cpu, 1),
    ("Every other command", every_command, 1),
    ("Profile", profile, 1),
    ("Throughput", throughput, 1),
    ("Two GPUs against one", two_against_one, 2),
    ("Two workers by ring", lambda machine: two_workers(machine, "ring"), 2),
    ("Two workers by NCCL", lambda machine: two_workers(machine, "nccl"), 2),
)
"""The parts, each with its title and the number of GPUs that it needs."""
_NOT_EMULATED = {
    "Profile": "CUPTI is not emulated",
    "Two workers by NCCL": "NCCL between processes is not emulated",
}
"""What the device of tests/emulated_gpu cannot run, by title, with the reason."""


def complete(report: str) -> str:
    """Returns the report, or raises a `FailedError` where something was skipped."""
    if " passed" not in report or " skipped" in report:
        raise FailedError(f"Not everything ran.\n\n{report}")
    return report


def compared(rows: Sequence[tuple[str, list[float], list[float], float]]) -> str:
    lines = ["| run | losses | relative difference, at most | allowed |", "| - | - | - | - |"]
    agree = True
    for name, expected, found, tolerance in rows:
        worst = max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))
        agree = agree and worst <= tolerance
        lines.append(f"| {name} | {len(found)} | {worst:.1e} | {tolerance:.0e} |")
    report = "\n".join(lines) + "\n"
    if not agree:
        raise FailedError(report)
    return report


def _count_gpus() -> int:
    """Counts the GPUs that TensorFlow sees, in a separate process."""
    code = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="as for `harness train`")
    parser.add_argument(
        "--rows",
        type=int,
        help=f"of synthetic data: a short hour; default: as for `train`, {_MANY_ROWS:,} for rates",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-first-hour.md"), help="the report")
    arguments = parser.parse_args()
    num_gpus = _count_gpus()
    if num_gpus == 0:
        print("TensorFlow sees no GPU: `harness doctor` says why", file=sys.stderr)
        return 2
    machine = Machine(arguments.data, rows=arguments.rows, num_gpus=num_gpus)
    summary = ["| part | result | seconds |", "| --- | --- | --- |"]
    sections: list[str] = []
    failed = False
    for title, part, needs in _PARTS:
        print(f"{title} ...", flush=True)
        start = time.perf_counter()
        result, found = "ok", ""
        if num_gpus < needs:
            result = f"left out: needs {needs} GPUs"
        elif _IS_EMULATED and title in _NOT_EMULATED:
            result = f"left out: {_NOT_EMULATED[title]}"
        else:
            try:
                found = part(machine)
            except FailedError as error:
                result, found, failed = "FAILED", str(error), True
            except Exception:  # noqa: BLE001 - it goes into the report, and the next part runs
                result, found, failed = "FAILED", f"```\n{traceback.format_exc()}```\n", True
        summary.append(f"| {title} | {result} | {time.perf_counter() - start:.0f} |")
        print(f"  {result}", flush=True)
        sections.append(f"## {title}\n\n{found}")
        where = f"on {num_gpus} {'emulated ' * _IS_EMULATED}GPUs"
        text = "\n".join([f"# The first hour, {where}", "", *summary, "", *sections])
        with replacing(arguments.out.absolute()) as beside:
            beside.write_text(text, encoding="utf-8")
    print(f"report: {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
