"""The product trains on the emulated device as on a CPU."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_programs import verdict
from tests.emulated_gpu import device
from tests.emulated_gpu.trainings import FLOAT32, GROUPS, NUM_TOKENS, Group, distances, too_far


def _dumping(group: Group, folder: Path) -> Group:
    """Returns the group in a process that writes its programs there, for `_counts`."""
    flags = f"{device.environment(folder)['XLA_FLAGS']} --xla_dump_to={folder / 'programs'}"
    return replace(group, variables=group.variables | {"XLA_FLAGS": flags})


def _counts(folder: Path) -> list[dict[str, Any]]:
    programs = (folder / "programs").glob("*gpu_after_optimizations.txt")
    return [verdict.counts(program.read_text(), num_tokens=NUM_TOKENS) for program in programs]


@pytest.mark.usefixtures("logical_devices")
@pytest.mark.parametrize("name", [name for name, group in GROUPS.items() if group.cases])
def test_losses_are_a_cpus(name: str, tmp_path: Path) -> None:
    group = GROUPS[name]
    found = distances(_dumping(group, tmp_path), tmp_path)
    assert too_far(group, found) == [], found
    # A scatter that has to add in a fixed order could be a loop over ids, within that over steps.
    counts = _counts(tmp_path)
    assert any(found["loops"] for found in counts)
    assert not [found for found in counts if "while" in found["not_capturable"]]


def _printed(program: str, folder: Path, **settings: Any) -> list[str]:
    """Runs a program with two GPUs; returns the lines that it prints."""
    done = device.run(device.environment(folder, devices=2, **settings), "-c", program)
    assert done.code == 0, done.err[-3000:]
    return done.out.splitlines()


_ONE_RUNS_OUT_OF_MEMORY = """
import os, keras, numpy as np, tensorflow as tf
import harness
from harness.base.memory import OutOfMemoryError
from tests.emulated_gpu import trainings
rows = trainings.rows_of(weighted=False)
def wide(inputs):
    x = harness.MultiHotDense(8, num_tokens=trainings.NUM_TOKENS)(inputs)
    return keras.layers.Dense(1)(keras.layers.Dense(40_000, activation="gelu")(x))
how = {"batch_size": trainings.BATCH_SIZE, "implementation": "gather", "precision": "float32"}
first = harness.Trainer(trainings.network, replicas=2, **how)
first.fit(rows, verbose=False)
weights = first.model.get_weights()
trainer = harness.Trainer(wide, batch_size=90, replicas=2, implementation="gather")
with tf.device("/GPU:1"):
    kept = [tf.zeros([1 << 18]) for _ in range(362)]  # of 375 MB
try:
    trainer.fit(rows, verbose=False)
except OutOfMemoryError as error:
    print(error)
del kept
try:
    first.fit(rows, verbose=False)
except harness.InputError as error:
    print(all(map(np.array_equal, weights, first.model.get_weights())), error)
trainer = harness.Trainer(first.model, replicas=2, **how)
for epochs in (2, 12):
    trainer.fit(rows, epochs=epochs, verbose=False)
    print(len(os.listdir("/proc/self/task")), flush=True)
os._exit(0)  # TensorFlow frees what a failed program was given twice
"""


def test_one_gpu_runs_out_of_memory(tmp_path: Path) -> None:
    """The other GPU waits for the first in a sum, and must end as well. Later trainings succeed,
    and start no threads: TensorFlow's own all-reduce starts one for each call and GPU, which sleeps
    for 1,000 seconds."""
    error, *_, late, before, after = _printed(_ONE_RUNS_OUT_OF_MEMORY, tmp_path)
    assert "Out of memory" in error
    assert late.startswith("True a GPU failed")  # the weights are as they were
    assert "make a new trainer of the same model" in late
    assert int(after) - int(before) < 12  # of 12 epochs, with a call each: 24


# One process tries all places, since TensorFlow starts slowly.
_VARIABLES_LIE_ELSEWHERE = """
import sys; sys.stderr = sys.stdout
import keras, tensorflow as tf, harness
from tests.emulated_gpu import trainings

class Keeping(keras.layers.Layer):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def build(self, input_shape):
        self.kept = self.add_weight(name="kept", shape=(), dtype=self.kind, trainable=False)

    def call(self, inputs):
        return inputs

def model(kind):
    inputs = {n: keras.Input((), dtype="int32", name=n) for n in ("values", "row_splits")}
    x = Keeping(kind)(harness.MultiHotDense(4, num_tokens=trainings.NUM_TOKENS)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(x))

class Count(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="count")
        self.count = self.add_variable((), initializer="zeros", dtype="int32")

    def update_state(self, labels, outputs, sample_weight=None):
        self.count.assign_add(keras.ops.shape(labels)[0])

    def result(self):
        return self.count + 0

rows = trainings.rows_of(weighted=False)
cases = ("/GPU:0", "float32", ()), ("/CPU:0", "float32", ()), ("/GPU:0", "int32", ())
for place, kind, metrics in (*cases, ("/GPU:0", "float32", [Count()])):
    with tf.device(place):
        made = model(kind)
    try:
        how = {"implementation": "gather", "deterministic": True}
        how["task"] = harness.Task(metrics=metrics)
        harness.Trainer(made, batch_size=90, replicas=1, **how).fit(rows, verbose=False)
        print("trained")
    except harness.InputError as error:
        print(error)
"""


def test_what_a_gpus_program_cannot_reach_is_refused(tmp_path: Path) -> None:
    late, trained, elsewhere, whole, summed = _printed(_VARIABLES_LIE_ELSEWHERE, tmp_path)
    assert "XLA_FLAGS=--xla_gpu_enable_scatter_determinism_expander=true before" in late
    assert trained == "trained"
    assert "lies on /job:localhost/replica:0/task:0/device:CPU:0" in elsewhere
    assert re.search(r"keeping.*/kept, int32, lies on .*CPU:0.* int64 instead of int32", whole)
    assert "a sum of the metric 'count', int32, lies on" in summed


_KERAS_HAS_BEGUN = """
import keras, harness
from tests.emulated_gpu import trainings
keras.optimizers.Adam()
try:
    trainings.train({"implementation": "native"})
except harness.InputError as error:
    print(error)
"""


def test_a_gpu_is_too_new_that_keras_has_begun_with(tmp_path: Path) -> None:
    """An optimizer's variables start TensorFlow with all GPUs that it sees."""
    (error,) = _printed(_KERAS_HAS_BEGUN, tmp_path, cc_0=120)
    assert re.search(r"TensorFlow has begun.*12\.0.*hide them", error)


_AS_KERAS_COMPUTES = """
import json
from dataclasses import replace
from harness.program.step import TrainStep
from tests.emulated_gpu import trainings
from tests.harness.program.rig import build_rig

rows = trainings.rows_of(weighted=False)
for on_gpu in (True, False):
    rig = build_rig(rows, hidden_units=(16, 16), batch_size=trainings.BATCH_SIZE, epochs=2)
    forward = replace(rig.forward, on_gpu=on_gpu)
    rig.training.step = TrainStep(forward, rig.task)
    losses = rig.train()[:, 0].tolist()
    call, batches = next((d.calls[0], b) for d, b in rig.dispatches())
    graph = str(rig.training.traced_on(0, call, batches[call.rows][0]).graph.as_graph_def())
    print(json.dumps([graph.count('op: "MatMul"'), losses]))
"""


def test_the_same_losses_without_fewer_launches(tmp_path: Path) -> None:
    """`harness.program.launches` only saves launches: a GPU trains alike without it."""
    (few, losses), (all_, expected) = map(json.loads, _printed(_AS_KERAS_COMPUTES, tmp_path))
    assert few < all_  # calls of a library
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_a_step_is_one_graph_and_allocates_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    case = {"name": "traced", "implementation": "native", "epochs": 3, "ragged": True, **FLOAT32}
    case["unique"] = True
    group = Group(cases=(case,), settings={"trace": trace, "devices": 2})
    distances(_dumping(group, tmp_path), tmp_path)
    lines = trace.read_text().splitlines()
    graphs = Counter(line for line in lines if line.startswith("graph of"))
    num_steps = (1 + 3) * 5  # a warm-up, and the epochs; the last batch has a program of its own
    # Fewer are better: change it then, and what docs/gpu_evidence.md says.
    step, evaluation = "graph of 15", "graph of 5"
    assert {graph for graph, count in graphs.items() if count == num_steps} == {step, evaluation}
    assert f"graph of {max(counts['launches_per_step'] for counts in _counts(tmp_path))}" == step
    sorts = [line for line in lines if line == "run multi_hot_scatter"]
    # An index for all steps of a call, and one for the last batch; and one when kernels are tried.
    assert len(sorts) == (1 + 3) * 2 + 1
    first = lines.index(step)
    assert not [line for line in lines[first:] if line.startswith("allocate")]
    # The last epoch's dispatch, up to its evaluation.
    last = [place for place, line in enumerate(lines) if line == step][-5]
    dispatch = lines[last : lines.index(evaluation, last)]
    waits = [line for line in dispatch if line.startswith("synchronize") or line.endswith("to -1")]
    # Where a stretch of the throughput ends here, which is by the clock, the rate is read as well.
    sums, rate = (["synchronize", f"copy {size} from 0 to -1"] for size in (16, 4))
    assert waits in (sums, sums + rate)
    assert "stream on 0" in lines
    assert "stream on 1" not in lines  # the other GPU is left alone
