"""Named cases: each deviation ever found, with the smallest model that shows it."""

import contextlib
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import keras
import numpy as np

import harness

# The files of scripts register their models.
from benchmarks.differential import (
    layers,
    script_clicks,  # noqa: F401
    script_losses,  # noqa: F401
    script_tables,  # noqa: F401
)
from benchmarks.differential.callbacks import BatchRecorder, DrawnCallbacks, Recorder
from benchmarks.differential.case import Case, draw_case
from benchmarks.differential.judging import Verdict, judge
from benchmarks.differential.models import Form
from benchmarks.differential.networks import Layer, Network
from benchmarks.differential.optimizers import Drawn, Scaled, Waves
from benchmarks.differential.rows import Part, inputs_of
from benchmarks.differential.scripts import SCRIPTS
from benchmarks.differential.tasks import DrawnTask

Outputs = Callable[[Any, Layer], Any]
TOKENS = 50
SMALL = Part(name="", num_tokens=TOKENS)
LARGE = Part(name="", num_tokens=2**16)
"""An input with so many ids that `table_optimizer="auto"` considers touched rows for a table of 64
units."""


def case_of(
    outputs: Outputs,
    *,
    optimizer: Callable[[Any], keras.optimizers.Optimizer] = lambda _: keras.optimizers.Adam(0.02),
    callbacks: Callable[[Path], list[keras.callbacks.Callback]] = lambda _: [],
    part: Part = SMALL,
    rows: int = 70,
    batch_size: int = 35,
    epochs: int = 2,
    metrics: tuple[str, ...] = ("accuracy",),
    form: Form = "functional",
    **settings: Any,
) -> Case:
    """Returns a binary case with logits and one input. By default the batch size divides the rows:
    a smaller last batch has programs of its own, which take as long to compile."""
    task = DrawnTask(
        kind="binary", form="binary", num_classes=2, head=None, loss=lambda: None,
        loss_words="default", metrics=metrics, class_weight=None, weighs_rows=False, named=True,
        soft=False,
    )  # fmt: skip
    rng = np.random.default_rng(7)
    return Case(
        seed=0,
        parts=(part,),
        task=task,
        train=task.labelled(rng, inputs_of(rng, (part,), rows), trained=True),
        validation=task.labelled(rng, inputs_of(rng, (part,), 30), trained=False),
        form=form,
        network=cast(Network, SimpleNamespace(outputs=outputs, words=["see named.py"])),
        optimizer=Drawn("", optimizer, scheduled=False, averages=False),
        callbacks=DrawnCallbacks([], callbacks, None),
        epochs=epochs,
        fit={},
        settings={"batch_size": batch_size, "seed": 0, "implementation": "gather", **settings},
        several=False,
        eager=True,
    )


def _new(layer: Layer, name: str, kind: Any, *given: Any, **options: Any) -> Any:
    return layer(name, lambda own, _: kind(*given, name=own, **options))


def _table(layer: Layer, *, units: int = 6, tokens: int = TOKENS, name: str = "table") -> Any:
    own = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.4, seed=1)}
    return _new(layer, name, harness.MultiHotDense, units, tokens, activation="tanh", **own)


def _large_table(layer: Layer) -> Any:
    return _table(layer, units=64, tokens=LARGE.num_tokens)


def _dense(layer: Layer, name: str, units: int, **options: Any) -> Any:
    own = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.4, seed=2)}
    return _new(layer, name, keras.layers.Dense, units, **own, **options)


def plain(inputs: Any, layer: Layer, table: str = "table") -> Any:
    """A table, a hidden layer and logits."""
    x = _table(layer, name=table)(inputs)
    return _dense(layer, "out", 1)(_dense(layer, "first", 4, activation="gelu")(x))


def frozen(inputs: Any, layer: Layer) -> Any:
    """A single table, which training does not change."""
    own = {"trainable": False, "kernel_initializer": keras.initializers.RandomNormal(seed=1)}
    return _new(layer, "out", harness.MultiHotDense, 1, TOKENS, **own)(inputs)


def between(kind: type[keras.layers.Layer]) -> Outputs:
    """A table, another layer and logits."""

    def outputs(inputs: Any, layer: Layer) -> Any:
        return _dense(layer, "out", 1)(_new(layer, "between", kind)(_table(layer)(inputs)))

    return outputs


def over_rows(inputs: Any, layer: Layer) -> Any:
    """Layers and losses that depend on the number of rows: means, counts, an activity
    regularizer, negatives of the same batch."""
    l2 = keras.regularizers.L2(0.05)
    x = _new(layer, "mean", layers.RowMeanPenalty, 0.1)(_table(layer)(inputs))
    x = _new(layer, "negatives", layers.InBatchSoftmax, 0.1)(x)
    x = _new(layer, "counted", layers.PerRow)(x)
    x = _dense(layer, "first", 4, activation="gelu", activity_regularizer=l2)(x)
    x = _new(layer, "centred", layers.Centred)(x)
    return _dense(layer, "out", 1)(x)


def tied(inputs: Any, layer: Layer) -> Any:
    """A large table that also makes the logits."""
    x = _large_table(layer)(inputs)
    return layer("out", lambda own, made: layers.Tied(made["table"], 1, name=own))(x)


def penalized(inputs: Any, layer: Layer) -> Any:
    """A large table with a loss of its own."""
    x = _large_table(layer)(inputs)
    x = layer("loss", lambda own, made: layers.KernelPenalty(made["table"], 1e-4, name=own))(x)
    return _dense(layer, "out", 1)(x)


def shared_table(inputs: Any, layer: Layer) -> Any:
    """Two layers with one large table."""
    x = _large_table(layer)(inputs)
    y = layer("same", lambda own, made: layers.SameTable(made["table"], name=own))(inputs)
    return _dense(layer, "out", 1)(x + y)


def regularized(inputs: Any, layer: Layer) -> Any:
    """A large table before a layer with a regularizer."""
    x = _large_table(layer)(inputs)
    return _dense(layer, "out", 1, kernel_regularizer=keras.regularizers.L2(0.01))(x)


def pooled(inputs: Any, layer: Layer) -> Any:
    """A layer of the user's own on the values."""
    x = _new(layer, "pooled", layers.Pooled, TOKENS, 6, mean=False, seed=1)(inputs)
    return _dense(layer, "out", 1)(x)


def _excluded(model: Any) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(0.02, weight_decay=5.0)
    kernel = model.trainable_variables[0]
    optimizer.exclude_from_weight_decay(var_list=[kernel], var_names=["bias"])
    return optimizer


def _set_later(_: Any) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.epsilon = 0.1
    optimizer.loss_scale_factor = 64.0
    return optimizer


C: Any = keras.callbacks
K = keras.optimizers
_averaged: dict[str, Any] = {"optimizer": lambda _: K.Adam(0.02, use_ema=True, ema_momentum=0.9)}
_sgd: dict[str, Any] = {"optimizer": lambda _: K.SGD(0.5)}
_large: dict[str, Any] = {"part": LARGE, "implementation": "native"}
_ragged: dict[str, Any] = {"batch_size": 50}  # the last batch has 20 rows
CASES: dict[str, Callable[[], Case]] = {
    "W1 tied, SGD": lambda: case_of(tied, **_sgd, **_large),
    "W1 tied, Adam, subclass": lambda: case_of(tied, form="built subclass", **_large),
    "W1 penalty on the table": lambda: case_of(penalized, **_large),
    "W1 two layers share a table": lambda: case_of(shared_table, **_sgd, **_large),
    "W2 excluded by name and by list": lambda: case_of(plain, optimizer=_excluded),
    "W2 Muon's layers and embeddings": lambda: case_of(
        partial(plain, table="embedding_a"),  # by its name it is an embedding's
        optimizer=lambda _: K.Muon(0.05, adam_lr_ratio=0.1, exclude_layers=["out"]),
    ),
    "W2 incomplete config": lambda: case_of(plain, optimizer=lambda _: Scaled(0.1, scale=3.0)),
    "W2 set after construction": lambda: case_of(plain, optimizer=_set_later),
    "W3 layers over the rows of a smaller batch": lambda: case_of(over_rows, **_ragged),
    "W5 SwapEMAWeights": lambda: case_of(
        plain, **_averaged, callbacks=lambda _: [C.SwapEMAWeights()], epochs=3
    ),
    "W5 SwapEMAWeights, on epochs": lambda: case_of(
        plain, **_averaged, callbacks=lambda _: [C.SwapEMAWeights(swap_on_epoch=True)]
    ),
    "W5 hooks and logs of batches": lambda: case_of(
        plain, callbacks=lambda _: [BatchRecorder()], **_ragged
    ),
    "W5b pooled by hand": lambda: case_of(pooled),
    "F1 callbacks that monitor val_auc": lambda: case_of(
        plain,
        callbacks=lambda folder: [
            C.ModelCheckpoint(
                folder / "{epoch}.weights.h5", monitor="val_auc", save_weights_only=True
            ),
            C.ReduceLROnPlateau(monitor="val_auc", patience=1),
            C.EarlyStopping(monitor="val_auc", patience=1),
        ],
        metrics=("accuracy", "auc"),
        epochs=3,
    ),
    "D1 subclass without the argument training": lambda: case_of(
        between(keras.layers.BatchNormalization), form="subclass in inference mode"
    ),
    "D6 a large table beside a regularizer": lambda: case_of(regularized, **_large),
    "D5 a schedule without get_config": lambda: case_of(
        plain, optimizer=lambda _: K.Adam(Waves(0.02))
    ),
    "D7 nothing is trained, and no step counted": lambda: case_of(
        frozen, callbacks=lambda _: [Recorder()]
    ),
    "D8 an embedding, by two workers": lambda: draw_case(739),
    "D4 a layer reads what it has just set": lambda: case_of(between(layers.Counting)),
}
"""The cases that a comparison with `keras.Model.fit` shows, by name."""


def _fit(case: Case, rate: float = 0.02, **arguments: Any) -> tuple[harness.Trainer, C.History]:
    trainer = harness.Trainer(
        case.given(), task=case.task.task(), optimizer=K.Adam(rate), **case.settings
    )
    return trainer, trainer.fit(case.train.examples, verbose=False, **arguments)


def _saved_figures() -> list[str]:
    """W4: the figures of a fit are those of the model that it leaves."""
    case = case_of(plain)
    stopping = C.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    assert case.validation is not None
    rows = case.validation.examples
    with tempfile.TemporaryDirectory() as folder:
        how = {"validation": rows, "epochs": 8, "callbacks": [stopping], "run_dir": folder}
        trainer, _ = _fit(case, rate=0.3, **how)
        summary = json.loads((Path(folder) / "summary.json").read_text())
    assert trainer.last is not None
    assert trainer.last.quality is not None
    found = {f"validation_{name}": value for name, value in trainer.evaluate(rows).items()}
    pairs = [(name, summary[name], value) for name, value in found.items()]
    last, own = trainer.last.quality.figures(), trainer.measure(rows).figures()
    pairs += [(name, last[name], own[name]) for name in own]
    return [
        f"{name} is {recorded}, and {value} of the model"
        for name, recorded, value in pairs
        if abs(recorded - value) > 1e-4
    ]


def _backup() -> list[str]:
    """W6: a run that broke after two of four epochs does the other two as if it had not."""
    case = case_of(plain)

    def fit(folder: str, *more: C.Callback) -> C.History:
        callbacks = [C.BackupAndRestore(Path(folder) / "backup"), *more]
        return _fit(case, epochs=4, callbacks=callbacks)[1]

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(ZeroDivisionError):
            fit(folder, C.LambdaCallback(on_epoch_begin=lambda epoch, _: 1 / (epoch - 2)))
        resumed = fit(folder)
    with tempfile.TemporaryDirectory() as folder:
        whole = fit(folder)
    if list(resumed.epoch) != [2, 3]:
        return [f"trained the epochs {list(resumed.epoch)}; Keras trains [2, 3]"]
    found, expected = resumed.history["loss"], whole.history["loss"][2:]
    return [] if found == expected else [f"losses {found}; {expected} without the break"]


def _threads() -> list[str]:
    """W7: trainers in threads give the same results as each gives alone."""
    case = case_of(plain)

    def net(inputs: Any) -> Any:
        x = harness.MultiHotDense(6, TOKENS, activation="tanh")(inputs)
        return keras.layers.Dense(1)(x)

    def losses(seed: int) -> list[float]:
        trainer = harness.Trainer(net, batch_size=50, seed=seed)
        return trainer.fit(case.train.examples, epochs=2, verbose=False).history["loss"]

    alone = list(map(losses, (0, 1)))
    with ThreadPoolExecutor(2) as pool:
        together = [list(pool.map(losses, (0, 1))) for _ in range(2)]
    return [
        f"{found} beside each other, {alone} alone"
        for found in together
        if not np.allclose(found, alone, rtol=1e-6)
    ]


CHECKS: dict[str, Callable[[], list[str]]] = {
    "W4 the figures of what is saved": _saved_figures,
    "W6 BackupAndRestore": _backup,
    "W7 two trainers in threads": _threads,
}
"""The checks of the trainer alone, by name; each returns what is wrong."""
FROM_SCRIPTS = (
    "deep interest network",
    "behavior sequence transformer",
    "neural decision forest",
    "imbalanced classification",
    "siamese with a function as metric",
    "esmm",
)
"""Models of scripts that show what no other named case does: masks, attention, models in a model,
counts beside class weights, a shared tower with a loss of a batch, several outputs."""
NAMED = (*CASES, *CHECKS, *FROM_SCRIPTS)


def judge_named(name: str) -> Verdict:
    """Judges a named case or a model of a script."""
    if name in SCRIPTS:
        return SCRIPTS[name].judge()
    if name in CASES:
        return judge(CASES[name]())
    wrong = CHECKS[name]()
    result: Literal["different", "equal"] = "different" if wrong else "equal"
    return Verdict(seed=0, result=result, reason="; ".join(wrong)[:300], details=wrong)
