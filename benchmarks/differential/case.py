"""A case, which is drawn from one seed."""

import os
from dataclasses import dataclass
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf

from benchmarks.differential.callbacks import DrawnCallbacks, draw_callbacks
from benchmarks.differential.draw import Draw
from benchmarks.differential.histories import Turn, draw_turns
from benchmarks.differential.models import UNCHANGED, Changes, Form, build, draw_changes, given
from benchmarks.differential.networks import Limits, Network
from benchmarks.differential.optimizers import Drawn, draw_optimizer
from benchmarks.differential.rows import Labelled, Part, draw_parts, inputs_of
from benchmarks.differential.tasks import DrawnTask, draw_task, with_ending

TWO_CPUS = "DIFFERENTIAL_TWO_CPUS"  # A variable that puts cases on two logical CPU devices


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training that both sides do."""

    seed: int
    parts: tuple[Part, ...]
    task: DrawnTask
    train: Labelled
    validation: Labelled | None
    form: Form
    network: Network
    optimizer: Drawn
    callbacks: DrawnCallbacks
    epochs: int
    fit: dict[str, Any]  # Arguments of `keras.Model.fit` that `Trainer.fit` has too
    settings: dict[str, Any]  # The trainer's settings
    several: bool  # Whether two workers train it
    eager: bool  # Whether Keras runs step by step: tracing takes longer than a few small steps
    changes: Changes = UNCHANGED  # What is done to the model before it is trained
    turns: tuple[Turn, ...] = ()  # What comes between further fits
    quantizes: bool = False  # Whether the trained model predicts with int8 weights in the end

    @property
    def batch_size(self) -> int:
        return int(self.settings["batch_size"])

    def model(self) -> keras.Model:
        """Makes the model that Keras trains."""
        return build(self.form, self.network, self.parts, self.changes)

    def given(self) -> Any:
        """Makes the model, or the function for one, that the trainer is given."""
        return given(self.form, self.network, self.parts, self.changes)

    def words(self) -> list[str]:
        """Returns a description of the case to print."""
        self.model()
        validation = "none" if self.validation is None else self.validation.num_rows
        task = self.task
        return [
            f"inputs: {'; '.join(map(str, self.parts))}",
            f"rows: {self.train.num_rows}, validation {validation}, epochs {self.epochs}",
            f"task: {task.form}, {task.num_outputs} outputs, {task.head or 'logits'}; loss "
            f"{task.loss_words}; metrics {', '.join(task.metrics)}; class weight "
            f"{task.class_weight}; row weights {task.weighs_rows}; soft {task.soft}",
            f"model: {self.form}, {self.changes}: {'; '.join(self.network.words)}",
            f"further fits: {'; '.join(map(str, self.turns))}; quantizes {self.quantizes}",
            f"optimizer: {self.optimizer.words}",
            f"callbacks: {'; '.join(self.callbacks.words)}",
            f"settings: {self.settings}; fit: {self.fit}",
            f"eager {self.eager}; two workers {self.several}",
        ]


def draw_case(seed: int) -> Case:
    """Draws the case of a seed."""
    draw = Draw(seed, "case")
    large = draw.chance(0.015)  # tables of 2**22 elements take some seconds
    parts = draw_parts(Draw(seed, "inputs"), large=large)
    task = with_ending(Draw(seed, "ending"), draw_task(Draw(seed, "task")))
    rows = draw.integer(60, 150)
    batch_size = _batch_size(draw, rows)
    validates = draw.chance(0.7)
    rng = np.random.default_rng([seed, 1])
    train = task.labelled(rng, inputs_of(rng, parts, rows), trained=True)
    validation = None
    if validates:
        others = inputs_of(rng, parts, draw.integer(15, 60))
        validation = task.labelled(rng, others, trained=False)
    epochs = draw.integer(1, 3)
    form: Form = draw.weighted(dict(zip(get_args(Form), (3, 4, 1.5, 1, 0.3), strict=True)))
    settings = _settings(Draw(seed, "settings"), seed, batch_size, large=large)
    several = Draw(seed, "workers").chance(0.01) and not large  # two processes take ten seconds
    if several:
        settings |= {"replicas": 1, "batch_size": batch_size // 2 * 2}
    # A device, too, sees only its own rows; on one CPU device two replicas are one program.
    on_cpus = TWO_CPUS in os.environ and not several and batch_size % 2 == 0
    if on_cpus:
        settings.pop("replicas", None)
        settings["strategy"] = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    on_gpus = settings.get("replicas") == 2 and bool(tf.config.get_visible_devices("GPU"))
    shared = several or on_cpus or on_gpus
    limits = Limits(
        num_outputs=task.num_outputs,
        head=task.head,
        row_wise=shared,
        large=large,
        ending=task.ending,
        activation=task.activation,
    )
    optimizer = draw_optimizer(
        Draw(seed, "optimizer"), has_model=form in ("functional", "built subclass"), large=large
    )
    callbacks = draw_callbacks(
        Draw(seed, "callbacks"),
        validates=validates,
        metrics=task.metrics,
        scheduled=optimizer.scheduled,
        averages=optimizer.averages,
    )
    return Case(
        seed=seed,
        parts=parts,
        task=task,
        train=train,
        validation=validation,
        form=form,
        network=Network(seed, parts, limits),
        optimizer=optimizer,
        callbacks=callbacks if not several else DrawnCallbacks([], lambda _: [], None),
        epochs=epochs,
        fit=_arguments(Draw(seed, "fit"), validates=validates, epochs=epochs),
        settings=settings,
        several=several,
        eager=draw.chance(0.85) and not task.needs_graph,
        changes=draw_changes(Draw(seed, "changes")),
        turns=() if several else draw_turns(Draw(seed, "turns"), optimizer, callbacks.words),
        quantizes=Draw(seed, "quantizes").chance(0.1) and not several,
    )


def _batch_size(draw: Draw, rows: int) -> int:
    """Draws a batch size, which often does not divide the rows; with two replicas, it is even."""
    kind = draw.weighted({"rest": 6, "even": 2, "one row": 1, "all": 0.5})
    if kind == "all":
        return rows
    if kind in ("even", "one row"):
        whole = rows - (kind == "one row")
        divisors = [d for d in range(10, rows) if whole % d == 0]
        return draw.one(divisors) if divisors else whole
    return draw.integer(16, min(60, rows - 1))


def _settings(draw: Draw, seed: int, batch_size: int, *, large: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed % 2**31}
    settings["implementation"] = draw.weighted({"gather": 4, "native": 4, "dense": 1})
    settings["input"] = draw.weighted({"resident": 4, "stream": 3, "auto": 1, "mapped": 0.5})
    settings["steps_per_dispatch"] = draw.weighted({"auto": 4, 1: 2, 2: 1, 3: 1})
    settings["table_optimizer"] = draw.weighted({"auto": 6, "dense": 1})
    replicas = draw.weighted({1: 5, 2: 1})
    if batch_size % replicas == 0:
        settings["replicas"] = replicas
    if large:
        settings |= {"implementation": "native", "table_optimizer": "auto"}
    return settings


def _arguments(draw: Draw, *, validates: bool, epochs: int) -> dict[str, Any]:
    """Draws arguments of `fit` besides rows and epochs that the trainer's `fit` has too."""
    arguments: dict[str, Any] = {}
    if draw.chance(0.1):
        arguments["shuffle"] = False
    if draw.chance(0.1) and validates:
        arguments["validation_freq"] = 2
    if draw.chance(0.06) and epochs > 1:
        arguments["initial_epoch"] = 1
    return arguments
