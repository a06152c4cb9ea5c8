"""The handlers that XLA calls on a GPU, with a driver that notes every call and runs the kernels in
the emulation. In processes of their own: a driver is loaded once and stays."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.multi_hot.native.build import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
ROOT = Path(__file__).resolve().parents[4]

SCRIPT = '''
import ctypes, json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
os.environ.update(FAKE_CUDA_LOG=str(folder / "log"), TF_CPP_MIN_LOG_LEVEL="3")
import numpy as np
import tensorflow as tf
from kernels.multi_hot.cases import PADDED, WEIGHTED, WIDE
from kernels.multi_hot.cuda import compiler, library, workspace
from kernels.multi_hot.table_rules import NUM_RATES, Rule, series
from kernels.multi_hot.native.build import build
from kernels.multi_hot.native.library import loaded
from tests.kernels.multi_hot import reference
from tests.kernels.multi_hot.checks import assert_close
from tests.kernels.multi_hot.cuda.driver.library import Xla, build_driver, read_log

xla = Xla(folder, Path(tf.sysconfig.get_include()))
handlers = loaded(build(Path(tf.sysconfig.get_include()), compiler.SOURCES))
assert handlers.multi_hot_cuda_register(xla.api)
found = {"traits": {}, "wrong": {}}
NAMES = ("forward", "backward", "take_rows", "touch", "row_gradients", "update_rows", "catch_up")
for name in NAMES:
    target = f"multi_hot_cuda_{name}"
    found["traits"][name] = [xla.platform(target), xla.traits(target)]


def product(case, dtype=tf.float32, wide=True, step=None):
    """Check both passes of a case against the reference; return what the driver was asked. With a
    step the case is one of three batches."""
    sets = case.draw(1)
    table, dy = (tf.constant(x, dtype).numpy() for x in (sets.table, sets.dy))
    splits = sets.row_splits.astype(np.int64 if wide else np.int32)
    operands = [sets.values, splits, *([] if sets.weights is None else [sets.weights])]
    if step is not None:
        batches = [np.stack([-7 * np.ones_like(part)] * 3) for part in operands]
        for batch, part in zip(batches, operands, strict=True):
            batch[step] = part
        operands = [*batches, np.array(step, np.int32)]
    y, dw = np.empty_like(dy), np.empty_like(table)
    error = xla.call("multi_hot_cuda_forward", [table, *operands], [y], unique=case.unique)
    if error is None:
        words = workspace.workspace_words(len(sets.values), *table.shape)
        space = np.full(words, -77, np.int32)
        error = xla.call("multi_hot_cuda_backward", [dy, *operands], [dw, space])
    log = read_log(folder / "log")
    if error is not None:
        return error, log
    table, dy = (x.astype(np.float64) for x in (table, dy))
    weights = sets.weights
    size = reference.multi_hot(sets.values, splits, num_tokens=len(table),
                               weights=None if weights is None else np.abs(weights))
    assert_close(tf.constant(y), reference.multi_hot_dense(table, sets.values, splits, weights),
                 size @ np.abs(table))
    wanted = reference.table_gradient(dy, sets.values, splits, num_tokens=len(table),
                                      weights=weights)
    assert_close(tf.constant(dw), wanted, size.T @ np.abs(dy))
    return None, log


driver = build_driver(folder)
setting = lambda context, capability, failing="": driver.fake_cuda_set(
    ctypes.c_long(context), capability, failing.encode())
for capability in ((9, 0), (9, 1)):
    library.add(handlers, capability, f"image for {capability}".encode() + bytes(1))
setting(0, 90)
found["no context"], _ = product(PADDED)
setting(1, 90, "cuModuleLoadData")
found["bad image"], _ = product(PADDED)
setting(1, 90)
found["first"] = product(PADDED)
found["again"] = product(PADDED)
setting(2, 90)
found["second GPU"] = product(WIDE, tf.bfloat16, wide=False)
setting(1, 90)
found["first GPU again"] = product(WEIGHTED, tf.float16)
found["one of several"] = [product(WEIGHTED, step=2), product(WIDE, wide=False, step=0)]
setting(3, 90)
found["unknown GPU"], _ = product(PADDED)
setting(1, 90, "cuLaunchKernel")
found["launch"], _ = product(PADDED)
setting(1, 90)
ones, ids, splits = np.ones([4, 2], np.float32), np.zeros(3, np.int32), np.array([0, 3])
y = np.empty([1, 2], np.float32)
for what, operands in {
    "table": [ones.astype(np.int32), ids, splits],
    "ids": [ones, ids.astype(np.float32), splits],
    "splits": [ones, ids, splits.astype(np.float32)],
    "weights": [ones, ids, splits, np.ones(2, np.float32)],
    "batches": [ones, ids, np.stack([splits] * 2), np.array(0, np.int32)],
    "no step": [ones, *(np.stack([part] * 2) for part in (ids, splits))],
}.items():
    found["wrong"][what] = xla.call("multi_hot_cuda_forward", operands, [y], unique=True)
found["wrong"]["workspace"] = xla.call(
    "multi_hot_cuda_backward", [y, ids, splits], [ones, np.empty(32, np.int32)])

# Batches of resident rows; one that is not there is the nearest, and what does not fit is seen.
rng = np.random.default_rng(0)
lengths = rng.integers(0, 40, 30)
ends = np.concatenate([[0], np.cumsum(lengths)])
resident = rng.integers(0, 2**16, ends[-1])
rows = np.array([3, 0, 29, 3, 40, -5, 7], np.int32)
kept = np.clip(rows, 0, 29)
ids = np.concatenate([resident[ends[r]:ends[r + 1]] for r in kept])
weights = rng.normal(size=ends[-1]).astype(np.float32)
read_log(folder / "log")
for id_type, split_type, capacity in (
    (np.uint16, np.int64, 400), (np.uint32, np.int32, 400), (np.uint16, np.int64, 20)
):
    taken, splits = np.full(capacity, -1, np.int32), np.full(8, -1, np.int32)
    operands = [resident.astype(id_type), ends.astype(split_type), rows]
    assert xla.call("multi_hot_cuda_take_rows", operands, [taken, splits]) is None
    assert splits.tolist() == np.cumsum([0, *lengths[kept]]).tolist()
    fitting = ids[:capacity]
    assert taken[:len(fitting)].tolist() == fitting.tolist()
    assert not taken[len(fitting):].any()
    own = np.full(capacity, np.nan, np.float32)
    operands.append(weights)
    assert xla.call("multi_hot_cuda_take_rows", operands, [taken, splits, own]) is None
    wanted = np.concatenate([weights[ends[r]:ends[r + 1]] for r in kept])[:capacity]
    assert own[:len(wanted)].tolist() == wanted.tolist()
    assert not own[len(wanted):].any()
found["taken"] = read_log(folder / "log")

# The touched rows, and a step of Adam in place: by their gradients, and by the dy that these follow
# from, whose workspace holds them.
for case in (PADDED, WEIGHTED):
    sets = case.draw(1)
    (V, H), N = sets.table.shape, len(sets.values)
    n = min(N, V)
    weights = np.zeros(0, np.float32) if sets.weights is None else sets.weights
    ids, rows, num = (np.full(size, -77, np.int32) for size in (n, N, 1))
    places, own = np.full(max(2 * n, N + 1), -77, np.int32), np.full_like(weights, np.nan)
    space = np.full(workspace.workspace_words(N, V, 0), -77, np.int32)
    assert xla.call("multi_hot_cuda_touch", [sets.values, sets.row_splits, weights],
                    [ids, places, rows, num, own, space], num_tokens=V) is None
    gradients, squares = np.full([n, H], np.nan, np.float32), np.empty(1, np.float32)
    words = workspace.row_workspace_words(N, H)
    space = np.full(words, -77, np.int32)
    index = [ids, places, rows, num, own]
    assert xla.call("multi_hot_cuda_row_gradients", [sets.dy, *index],
                    [gradients, squares, space]) is None
    used = sets.values[: sets.row_splits[-1]]
    assert ids[: num[0]].tolist() == sorted(set(used.tolist()))
    wanted = reference.table_gradient(sets.dy.astype(np.float64), sets.values, sets.row_splits,
                                      num_tokens=V, weights=sets.weights)
    np.testing.assert_allclose(gradients[: num[0]], wanted[ids[: num[0]]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(squares[0], (wanted**2).sum(), rtol=1e-4)
    scalars, step = np.array([0.1, 0.1, 0.001, 1e-7, 0.5], np.float32), np.array([7])
    updates = []
    for from_dy in (True, False):
        parts = [sets.table.copy(), np.zeros_like(sets.table), np.zeros_like(sets.table)]
        operands = [np.ones(1, np.int32), scalars, step, sets.dy if from_dy else gradients, *index]
        spaces = [np.full(words + n * H, -77, np.int32)] if from_dy else []
        assert xla.call("multi_hot_cuda_update_rows", [*operands, *parts], [*parts, *spaces],
                        kind=2, from_dy=from_dy) is None
        updates.append(parts)
    for one, other in zip(*updates, strict=True):
        assert one.tobytes() == other.tobytes()
    g = 0.5 * wanted
    moved = 0.1 * 0.1 * g / (np.sqrt(0.001 * g * g) + 1e-7)
    np.testing.assert_allclose(updates[0][0], sets.table - moved, rtol=1e-4, atol=1e-5)
found["touched"] = read_log(folder / "log")
# What the rows of the last batch missed of exact Adam, from 1 to 300 steps, and its step.
ones, now, ids = np.ones([1], np.int32), np.array([6000]), ids[: num[0]]
steps = Rule("exact_adam")
last = now[0] - rng.integers(1, 300, V)
rates = rng.uniform(0.5e-3, 1.5e-3, NUM_RATES).astype(np.float32)
m, v = rng.normal(size=(2, V, H)).astype(np.float32)
parts = [sets.table.copy(), m.copy(), v * v, last.copy(), rates.copy()]
operands = [ones, 0 * ones, now, index[0], num, *series(steps.beta_1, steps.beta_2), *parts]
assert xla.call("multi_hot_cuda_catch_up", operands, parts, epsilon=steps.epsilon) is None
for row in range(V):
    missed = now[0] - last[row] if row in ids else 0
    i = np.arange(1, missed + 1)[:, None]
    moved = steps.beta_1 ** i.astype(float) * rates[(last[row] + i - 1) % NUM_RATES] * m[row]
    moved = (moved / (abs(v[row]) * steps.beta_2 ** (i / 2) + steps.epsilon)).sum(axis=0)
    np.testing.assert_allclose(parts[0][row], sets.table[row] - moved, rtol=1e-5, atol=1e-5)
    decayed = m[row] * steps.beta_1 ** float(missed)
    np.testing.assert_allclose(parts[1][row], decayed, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(parts[3][row], now[0] if row in ids else last[row])
operands = [ones, scalars, now + 1, gradients, *index, *parts]
assert xla.call("multi_hot_cuda_update_rows", operands, parts, kind=3, from_dy=False) is None
assert (parts[3][ids] == now[0] + 1).all()
assert parts[4][now[0] % NUM_RATES] == scalars[0]
ones = np.ones([4, 2], np.float32)
index = [np.zeros(2, np.int32), *(np.zeros(3, np.int32) for _ in range(2)), np.zeros(1, np.int32),
         np.zeros(0, np.float32)]
operands = [np.ones(1, np.int32), scalars, step, ones[:2], *index, ones]
target = "multi_hot_cuda_update_rows"
update = lambda results, **options: xla.call(target, operands, results, **options)
found["wrong"]["copy"] = update([ones.copy()], kind=0, from_dy=False)
found["wrong"]["kind"] = update([ones], kind=3, from_dy=False)
operands = [operands[0], *index[3:4], step, *index[:1], *index[3:4], *series(0.9, 0.999), ones]
found["wrong"]["catch_up"] = xla.call("multi_hot_cuda_catch_up", operands, [ones], epsilon=1e-7)
operands = [np.ones(1, np.int32), scalars, step, ones[:2], *index, ones]
found["wrong"]["sums"] = update([ones, np.empty(8, np.int32)], kind=0, from_dy=True)
print("FOUND" + json.dumps(found))
'''


WITHOUT_A_DRIVER = """
import importlib.util, sys
from pathlib import Path
import numpy as np
from kernels.multi_hot.native.build import SOURCES, build
from kernels.files import reached_by
import ctypes
from tests.kernels.multi_hot.cuda.driver.library import Xla

include = Path(importlib.util.find_spec("tensorflow").origin).parent / "include"
xla = Xla(Path(sys.argv[1]), include)
library = build(include, SOURCES.parent / "cuda")
assert ctypes.CDLL(str(reached_by(library.descriptor))).multi_hot_cuda_register(xla.api)
ones, ids, splits = np.ones([4, 2], np.float32), np.zeros(3, np.int32), np.array([0, 3])
print(xla.call("multi_hot_cuda_forward", [ones, ids, splits], [ones[:1]], unique=True))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("handlers")


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(SCRIPT, folder).partition("FOUND")[2])
    return found


def test_calls_of_the_driver(found: dict[str, Any]) -> None:
    # Registered for CUDA, and XLA may record them into a CUDA graph.
    names = ("forward", "backward", "take_rows")
    names += ("touch", "row_gradients", "update_rows", "catch_up")
    assert found["traits"] == {name: ["CUDA", 1] for name in names}

    error, calls = found["first"]
    assert error is None
    # The module is loaded once, and its functions are found, in a mode in which a graph may be
    # captured meanwhile.
    assert calls[:2] == ["capture_mode 2", "load 1 image for (9, 0)"]
    assert calls[2].startswith("function")
    assert calls[3] == "capture_mode 0"
    names = [call.split()[2] for call in calls if call.startswith("function")]
    assert names == [
        "multi_hot_forward_f32_2", "multi_hot_prepare_f32", "multi_hot_count", "multi_hot_scatter",
        "multi_hot_sum_tiles_f32_2", "multi_hot_sum_runs_f32_2",
    ]  # fmt: skip
    # Nothing but launches on XLA's stream: no wait, no memory.
    again = ["launch 4242", "clear 4242", *["launch 4242"] * 7]
    assert found["again"] == [None, again]
    assert [call for call in calls if "4242" in call] == again
    # Each GPU has its own module, of its own compute capability.
    error, calls = found["second GPU"]
    assert error is None
    assert "load 2 image for (9, 1)" in calls
    assert "function 1002 multi_hot_forward_once_bf16_4" in calls
    error, calls = found["first GPU again"]
    assert error is None
    assert not [call for call in calls if call.startswith("load")]
    assert "function 1001 multi_hot_forward_f16_1" in calls
    assert [error for error, _ in found["one of several"]] == [None] * 2
    assert [call for call in found["taken"] if call.startswith("launch")] == ["launch 4242"] * 12
    # The index, the gradients and their squares, an update from dy and one from the gradients.
    launches = [call.split()[0] for call in found["touched"] if "4242" in call]
    padded, weighted = (3 + 2 * passes + 4 + 3 + 1 for passes in (2, 1))
    assert launches == ["clear", *["launch"] * padded, "clear", *["launch"] * weighted]


def test_what_fails_is_an_error(found: dict[str, Any]) -> None:
    assert found["no context"] == "no CUDA context is current"
    assert found["bad image"] == "CUDA's driver failed in cuModuleLoadData: error 200"
    assert found["unknown GPU"].endswith("this GPU's compute capability, 9.2")
    assert found["launch"].endswith("multi_hot_forward_f32_2: unspecified launch failure")
    wrong = found["wrong"]
    assert wrong["table"] == "tables are float32, bfloat16 or float16"
    assert wrong["ids"] == "ids are int32, uint32, uint16 or int64"
    assert wrong["splits"] == "row_splits are int32 or int64"
    assert wrong["weights"] == "there must be one float32 weight for each value"
    assert wrong["copy"] == "XLA gave an update other memory than its operand's"
    assert wrong["kind"] == "this optimizer of rows is unknown"
    assert wrong["catch_up"] == "the operands of the catch-up are wrong"
    assert wrong["sums"] == "the workspace of the touched rows is too small"
    assert wrong["no step"] == "several batches need a step"
    assert wrong["batches"] == "several batches have as many values as row_splits"
    assert wrong["workspace"] == "the workspace of the gradient is too small"


def test_without_a_driver(folder: Path) -> None:
    said = run(WITHOUT_A_DRIVER, folder)
    assert "there is no CUDA driver" in said
    assert "libcuda.so.1" in said
