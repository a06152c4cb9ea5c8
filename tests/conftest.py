"""The setup of all tests: two logical CPU devices, the real data, and hypothesis's search."""

import os

# TensorFlow reads these when it is imported, which a test module may do: so set them before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# The suite runs on logical CPU devices, even if there is a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# XLA compiles hundreds of small programs here, and optimizing their machine code takes longer than
# they run; so does making it by way of MLIR, or in parts, each of which sets up LLVM again. XLA's
# passes over the graph do not change. `.ci/run` also tests the numbers with XLA's own settings.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)

import gc
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

from harness.base.quiet import quiet_import

# Imports and tracing make so many objects that looking through them again and again took a tenth.
gc.set_threshold(100_000, 20, 20)
# A shell's background job ignores SIGINT, and so would every process that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)

NUM_LOGICAL_DEVICES = 2
# A profile lists all programs that its process has compiled, and takes longer the more they are: so
# files with profiles come first. Then those that take longest, so that no process works on one file
# alone at the end.
FIRST_FILES = (
    "tests/harness/cli/test_profile.py",
    "tests/browser/test_tensorboard.py",
    "tests/harness/run/test_profiling.py",
    "tests/emulated_gpu/test_trainings.py",
    "tests/emulated_gpu/test_commands.py",
    "tests/test_docs.py",
    "tests/harness/trainer/test_strategy.py",
    "tests/harness/trainer/test_between_fits.py",
    "tests/harness/trainer/test_trainer.py",
    "tests/harness/tools/test_recipe.py",
    "tests/harness/program/test_two_devices.py",
    "tests/harness/cli/test_tune.py",
    "tests/harness/cli/test_bench.py",
    "tests/harness/test_sklearn.py",
    "tests/emulated_gpu/test_contract.py",
    "tests/emulated_gpu/test_strategy.py",
    "tests/harness/cli/test_resume.py",
    "tests/benchmarks/cluster/test_parity.py",
    "tests/kernels/multi_hot/native/test_sanitizers.py",
    "tests/benchmarks/test_suites.py",
    "tests/benchmarks/faults/test_kill_and_resume.py",
    "tests/harness/cli/test_launch.py",
    "tests/harness/cli/test_train.py",
    "tests/harness/trainer/test_recommending.py",
    "tests/kernels/multi_hot/test_gather.py",
    "tests/kernels/multi_hot/test_dense.py",
    "tests/test_contributing.py",
    "tests/scripts/test_environment.py",
)
PROJECT_ROOT = Path(__file__).resolve().parent.parent

# Fresh examples on every run, and a failure prints the decorator that repeats it. No deadline: the
# first example of a compiled function pays for the compilation. Said in full, since hypothesis has
# other defaults where CI is set.
hypothesis.settings.register_profile(
    "harness", derandomize=False, deadline=None, print_blob=True, max_examples=60
)
hypothesis.settings.load_profile("harness")


def _split_cpu() -> None:
    """Sets up two logical CPU devices, unless that was done.

    Raises RuntimeError when TensorFlow already runs without them.
    """
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_LOGICAL_DEVICES
        )


def pytest_configure(config: pytest.Config) -> None:
    """Imports TensorFlow quietly in a worker of pytest-xdist, which writes to the terminal."""
    if hasattr(config, "workerinput"):
        with quiet_import():
            import tensorflow  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts `FIRST_FILES` to the front, and keeps the order of each file's tests."""
    places = {PROJECT_ROOT / name: place for place, name in enumerate(FIRST_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Splits the CPU: by now all test modules are imported, but no test has run an operation."""
    gc.freeze()
    if "tensorflow" not in sys.modules:
        return
    try:
        _split_cpu()
    except RuntimeError as error:
        raise pytest.UsageError(
            "TensorFlow ran before its CPU could be split into logical devices: a test module makes"
            " tensors while it is imported; move that into a fixture"
        ) from error


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Freezes garbage collection after each file: TensorFlow keeps a part of every compiled
    function, which no later collection need look through."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def logical_devices() -> list[str]:
    """Returns the names of the two logical CPU devices, ["/device:CPU:0", "/device:CPU:1"].

    Tests of several replicas use this, and any test that imports TensorFlow only inside itself.
    """
    _split_cpu()
    import tensorflow as tf

    return [device.name for device in tf.config.list_logical_devices("CPU")]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real data: HARNESS_TEST_DATA, or ../shared/data; skips without one."""
    named = os.environ.get("HARNESS_TEST_DATA")
    folder = Path(named) if named else PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if named:
            pytest.fail(f"HARNESS_TEST_DATA names {named}, which is no folder")
        pytest.skip(f"needs the real data: set HARNESS_TEST_DATA to its folder (no {folder})")
    return folder


@pytest.fixture(scope="session")
def imdb_path(data_folder: Path) -> Path:
    """The real imdb.npz in Keras's format; skips without it."""
    path = data_folder / "imdb.npz"
    if not path.is_file():
        pytest.skip(f"needs the real data: {data_folder} holds no imdb.npz")
    return path
