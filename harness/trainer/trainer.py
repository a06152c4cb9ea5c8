"""The trainer that users hold: a model, a task and settings, with fit, evaluate, predict, save."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from harness.base.checks import require
from harness.base.errors import DivergenceError, InputError
from harness.base.interrupt import Terminated
from harness.base.terminal import lasting
from harness.data.containers import as_examples, without_labels
from harness.data.examples import Examples
from harness.data.vocabulary import Vocabulary
from harness.model.export import Format, export_model
from harness.model.heads import head_of
from harness.model.network import ModelFunction
from harness.model.optimizers import OptimizerFactory, config_of, optimizer_of
from harness.model.variables import checksum_of
from harness.program.devices import Devices
from harness.program.optimizer import attributes_of
from harness.program.strategy import devices_of, own_strategy
from harness.task.measures import Quality
from harness.task.outputs import OutputTasks, numbered
from harness.task.ranking import Ranking, Recommended
from harness.task.task import Kind, Task
from harness.trainer.advice import divergence_message
from harness.trainer.callbacks import History, as_compiled, outside_fit
from harness.trainer.for_python import for_python
from harness.trainer.loop import Steps, Training
from harness.trainer.resuming import Opened, open_run
from harness.trainer.run import Asked, Outcome, Run, dataset_info, run_start
from harness.trainer.settings import RunOptions, Settings
from harness.trainer.setup import Setup, name_apart, set_up
from harness.workers.cluster import cluster_of
from harness.workers.membership import require_alone
from kernels.files import replacing

AnyKind: TypeAlias = Kind | Literal["auto"]
AnyRows = Any  # Rows in any container that `harness.as_examples` takes
Callbacks = Sequence[keras.callbacks.Callback]
# What each fit sets, besides its folder.
_OF_FITS = ("step", "last", "_steps_per_epoch", "_vocabulary", "_thresholds", "class_names")


class Trainer:
    """Trains, evaluates and saves one Keras model."""

    _strategy: tf.distribute.Strategy | None = None  # the user's own

    @for_python(Settings)
    def __init__(
        self,
        model: ModelFunction | keras.Model,
        *,
        task: AnyKind | Task | Mapping[str, AnyKind | Task] = "auto",
        optimizer: str | OptimizerFactory | keras.optimizers.Optimizer = "adam",
        strategy: tf.distribute.Strategy | None = None,
        **settings: Any,
    ) -> None:
        """Args:
        model: a function from Keras inputs to logits (or to probabilities, by Keras's sigmoid or
            softmax); or a `keras.Model` of that form, built or not, which starts from its weights.
            The inputs are `{"values", "row_splits"}`, and `"weights"` if ids have some; for
            `Examples` with names, one such or one [rows, features] for each name.
        task: what the labels mean: `auto`, a kind, or a `harness.Task` with loss and metrics; for a
            model of several outputs one for all, or one for each that is trained, by its name.
        optimizer: the name of a `keras.optimizers.Optimizer`; a `functools.partial` that makes one
            once the GPUs are set up; or an optimizer. A copy of it trains, which takes up what is
            set on it later, such as a learning rate, at the next fit.
        strategy: a OneDeviceStrategy or MirroredStrategy whose devices train, in place of
            `replicas`; a call in the scope of one, or a model that was made there, gives it too.
            None: one for the devices that `replicas` names. A strategy that is made before the
            trainer starts TensorFlow with all GPUs and their memory: set memory growth before.
        **settings: fields of `harness.Settings`: batch_size, precision, implementation, ...

        Raises:
            InputError: a ValueError, for wrong arguments; every method may raise it.
        """
        if not callable(model):
            raise InputError(
                f"model is {type(model).__name__}; give a keras.Model, or a function from Keras "
                "inputs to logits"
            )
        self.settings = Settings(**settings)
        self._given = model
        self._task: Task | OutputTasks
        if isinstance(task, Mapping):
            self._task = OutputTasks({name: _task(part) for name, part in task.items()})
        else:
            self._task = _task(task)
        self._optimizer = optimizer_of(optimizer)
        self._optimizer_config: dict[str, Any] = {}  # without what callbacks have set
        if strategy is not None:
            self._be_under(strategy)
        self._strategy = own_strategy(self._strategy, model)
        self._setup: Setup | None = None
        self._steps_per_epoch = 0
        self._folder: Path | None = None
        self._vocabulary: Vocabulary | None = None  # The vocabulary of the rows of the last fit
        self._thresholds: Sequence[float] | None = None  # that the last fit chose
        self._by_steps = False  # whether `steps` may have trained what the model lacks
        self._kept: dict[str, Any] = {}  # of the trainer that this is a copy of
        self.class_names: tuple[Any, ...] = ()
        """The names of the classes that the model was trained on; none if labels are numbers."""
        self.step = 0  # Optimizer steps done
        self.last: Outcome | None = None  # The outcome of the last fit

    def _be_under(self, strategy: tf.distribute.Strategy) -> None:
        """Makes the trainer train under a strategy; raises InputError if it has another one."""
        setup = vars(self).get("_setup")
        own = self._strategy if setup is None else setup.devices.strategy
        if own not in (None, strategy):
            raise InputError(
                f"the trainer is under a {type(own).__name__} already, and this call is within the "
                f"scope of another {type(strategy).__name__}; make a trainer in that scope"
            )
        devices_of(strategy)  # raises, too
        self._strategy = strategy

    def __repr__(self) -> str:
        name = getattr(self._given, "name", getattr(self._given, "__name__", "a function"))
        return f"<harness.Trainer of {name}, step {self.step}>"

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for pickle, joblib and `copy.deepcopy`. A copy predicts, evaluates and
        goes on training as this trainer would, on devices that it chooses itself. It has no run
        folder, and `last` is None."""
        self._take_up_optimizer()
        optimizer = self._optimizer
        if getattr(optimizer, "_exclude_from_weight_decay", None):
            raise InputError(
                "the optimizer leaves out variables of weight decay by var_list, which no copy of "
                "the trainer has; name them by var_names"
            )
        kept = {**vars(self), "_setup": None, "_folder": None, "last": None, "_by_steps": False}
        kept.pop("_strategy", None)  # it names devices of this process
        if self._setup is not None:
            kept |= {"_given": self.model, "_kept": self._kept or self._setup.kept()}
        if isinstance(optimizer, keras.optimizers.Optimizer):  # Keras keeps only its config
            kept["attributes"] = attributes_of(optimizer)
            # The config has the rate, which may be set on the copy before it trains.
            kept["_kept"].get("state", {}).pop("optimizer/learning_rate", None)
        if isinstance(kept["_given"], keras.Model):  # of which Keras drops the policy
            kept["policy"] = kept["_given"].dtype_policy.name
        if kept["_kept"]:
            kept["checksum"] = checksum_of(kept["_given"])
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        for name, value in kept.pop("attributes", {}).items():
            setattr(kept["_optimizer"], name, value)
        model: Any = kept["_given"]
        if "policy" in kept:
            model.dtype_policy = kept.pop("policy")
            name_apart(model)
        if "checksum" in kept and checksum_of(model) != kept.pop("checksum"):
            raise InputError(
                f"Keras cannot copy the weights of the model {model.name!r}; give the class "
                f"{type(model).__name__} a method build that builds its layers"
            )
        vars(self).update(kept)

    @property
    def model(self) -> keras.Model:
        """The Keras model with its present weights; an InputError if it is a function that has seen
        no rows yet."""
        if self._setup is None:
            if isinstance(self._given, keras.Model):
                return self._given
            raise InputError("the model is built from the first rows that it sees; call fit before")
        if self._by_steps:
            self._setup.programs.state.catch_up_all()
        return self._setup.model

    @property
    def task(self) -> Task | OutputTasks:
        """The task as it was given."""
        return self._task

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer in use: the copy that trains, with its iterations and its slots; before the
        first fit the one given. An InputError if that is a name or a function."""
        if self._setup is not None and "input" in self._setup.choices:
            return self._setup.programs.state.optimizer
        if isinstance(self._optimizer, keras.optimizers.Optimizer):
            return self._optimizer
        raise InputError("the optimizer is made for the first rows to train on; call fit before")

    @property
    def devices(self) -> Devices:
        """The devices that the trainer computes on; an InputError before it has seen rows."""
        if self._setup is None:
            raise InputError("the devices are chosen for the first rows; call fit before")
        return self._setup.devices

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The tf.distribute strategy of the devices; an InputError before it has seen rows."""
        return self.devices.strategy

    @for_python(RunOptions)
    def fit(
        self,
        train: AnyRows,
        *,
        validation: AnyRows | None = None,
        test: AnyRows | None = None,
        epochs: int = 1,
        initial_epoch: int = 0,
        validation_freq: int | list[int] = 1,
        shuffle: bool = True,
        callbacks: Callbacks = (),
        verbose: bool = True,
        vocabulary: Vocabulary | None = None,
        **options: Any,
    ) -> History:
        """Trains for some epochs. Called again, it goes on from there.

        In the main thread, Ctrl-C ends it after the dispatch at hand, with a checkpoint where there
        is a `run_dir`. So do SIGTERM and SIGUSR1; the program then ends too, unless it catches
        `harness.base.interrupt.Terminated`. A second Ctrl-C or SIGTERM ends it at once.

        Where TF_CONFIG or SLURM names several workers, call it in all of them, with the same rows
        and settings: they train one model, and the first of them prints and writes.

        Args:
            train: rows with labels.
            validation: rows to evaluate after epochs, and once more at the end if a callback has
                changed the weights since.
            test: rows to evaluate once, at the end; may be those of `validation`.
            epochs: the number of epochs to add, those before `initial_epoch` included; with
                `resume`, the number of all epochs.
            initial_epoch: the number of the first epoch, counted from 0; a resumed run goes on from
                its checkpoint instead.
            validation_freq: every how many epochs to evaluate; or a list of the epochs after which
                to evaluate, counted from 1.
            shuffle: whether every epoch has an order of its own; if not, all have the rows' order.
            callbacks: Keras callbacks; one that wants every batch makes dispatches of one step.
            verbose: whether to print what is trained, and the progress.
            vocabulary: the vocabulary of the rows, kept in `run_dir` for predictions.
            **options: fields of `harness.RunOptions`: run_dir, resume, tensorboard, ...

        Returns:
            Keras's history: `history["loss"]`, `["accuracy"]`, `["val_loss"]`, a number per epoch;
            `plot()` draws them.

        Raises:
            InputError: when the settings do not fit the rows, the devices or the run folder.
                Nothing has been written or removed then.
            OSError: when a file cannot be written, naming it.
            DivergenceError: after everything else, when the loss was not finite at the end.
            LostWorkerError: when another worker ended or cannot be reached any more.
            Terminated: a SystemExit with code 143, after everything else, when SIGTERM or SIGUSR1
                ended the training.
        """
        rows = self._examples(train, name="train rows")
        names = rows.class_names or self.class_names
        held_out = None
        if validation is not None:
            held_out = self._examples(validation, names=names, like=rows)
        tested = held_out if test is validation else test
        return self.run(
            Asked(
                train=rows,
                validation=held_out,
                test=None if tested is None else self._examples(tested, names=names, like=rows),
                epochs=epochs,
                initial_epoch=initial_epoch,
                validation_freq=validation_freq,
                shuffle=shuffle,
                callbacks=callbacks,
                vocabulary=vocabulary,
                console=Console() if verbose else None,
                options=RunOptions(**options),
            )
        )

    def run(self, asked: Asked) -> History:
        """Does what `fit` does, for the command line too, which has more to ask for."""
        cluster = cluster_of(os.environ)
        self._take_up_optimizer()
        asked = replace(
            asked,
            config=asked.config or self._config(asked),
            console=None if asked.console is None else lasting(asked.console),
        )
        if not cluster.is_chief:
            asked = asked.of_worker()
        steps_per_epoch = self.settings.steps_per_epoch(asked.train.num_rows)
        with ExitStack() as claims, cluster.watched():
            # The folders are locked first; a run that is refused leaves them as they were.
            opened = Opened()

            def open_folders() -> dict[str, Any] | None:
                nonlocal opened
                options, config = asked.options, asked.config
                own, begun = self._folder, self.step > 0
                opened = open_run(options, config, claims, own_folder=own, begun=begun)
                return opened.execution

            before = cluster.from_chief(open_folders)
            setup_before = self._setup

            def forget(kind: Any, *_: Any) -> None:
                # A fit that is refused leaves the trainer as it was, unless that was trained.
                made = self._setup
                if kind is not None and not (self.step or (made and made.programs.have_trained)):
                    self._setup = setup_before

            claims.push(forget)
            parts = [part for part in (asked.train, asked.validation) if part is not None]
            setup = self._set_up(*parts, training=True, before=before, console=asked.console)
            asked.timeline.mark("set-up")
            claims.enter_context(as_compiled(setup))
            # Outside of a fit the model has the present weights, whatever ended it.
            claims.callback(setup.programs.state.catch_up_all)
            claims.callback(setup.programs.state.optimizers.agree)
            facts = {"steps before": self.step, **self._optimizer_config}
            # Workers that differ would hang in a collective instead of saying so.
            cluster.require_same(asked.facts(self.settings) | facts)
            steps_done = 0 if before is not None else self._steps_done(steps_per_epoch)
            run = Run(asked, opened, setup, last=self.last, steps_done=steps_done)
            claims.callback(self._take_over, run)
            last = run.run()
            cluster.wait_for_all()  # until the chief has written everything
        progress, self._folder = last.progress, opened.folder
        if progress is not None and progress.divergence is not None:
            raise DivergenceError(divergence_message(progress.divergence, last.start, progress))
        if last.terminated:
            raise Terminated
        return last.history

    def _take_over(self, run: Run) -> None:
        """Goes on from where a run has brought the state, also by an error."""
        if (last := run.outcome) is not None:
            self.last, asked = last, run.asked
            self._vocabulary = asked.vocabulary or self._vocabulary
            self._thresholds = last.thresholds
            self.class_names = asked.train.class_names or self.class_names
            self.step = last.progress.step if last.progress else last.start.start_step
            self._steps_per_epoch = last.start.steps_per_epoch

    def _steps_done(self, steps_per_epoch: int) -> int:
        epochs_done, begun = divmod(self.step, self._steps_per_epoch or steps_per_epoch)
        last = self.last
        goes_on = bool(last and last.progress and (last.progress.interrupted or not last.summary))
        if steps_per_epoch == self._steps_per_epoch and goes_on:
            return self.step
        # The epochs of other rows begin anew, and a callback may have ended one early.
        return (epochs_done + (begun > 0 and not goes_on)) * steps_per_epoch

    @for_python()
    def snapshot(self, train: AnyRows) -> Callable[..., None]:
        """Returns a function that takes the trainer back to its present state, as often as it is
        called. Compiled programs stay, so rows of the same sizes, such as another fold, train
        without another compilation. A seed given to the function orders the rows from then on.

        Args:
            train: rows like those to train on, for which a new trainer builds its model.
        """
        setup = self._set_up(self._examples(train), training=True)
        saved = setup.programs.state.save()
        before = {name: vars(self)[name] for name in _OF_FITS}

        def restore(seed: int | None = None) -> None:
            setup.feeds.clear()
            self._setup = setup  # a fit may have made another, for what was set on the optimizer
            if seed is not None:
                self.settings = setup.settings = replace(setup.settings, seed=seed)
            setup.programs.state.restore(saved)
            vars(self).update(before, _folder=None)

        return restore

    @for_python()
    def evaluate(self, rows: AnyRows, *, callbacks: Callbacks = ()) -> dict[str, float]:
        """Returns `loss` and every metric over all rows, like
        `keras.Model.evaluate(return_dict=True)`."""
        return self.evaluate_and_measure(rows, callbacks=callbacks)[0]

    @for_python()
    def measure(self, rows: AnyRows) -> Quality:
        """Returns precision, recall, F1, ROC-AUC and the confusion matrix of the predictions for
        all rows.

        Raises:
            InputError: when a label is no class but a number.
        """
        examples = self._examples(rows)
        quality = self.evaluate_and_measure(examples)[1]
        if quality is None:
            raise InputError(
                f"{examples.name} has labels between 0 and 1, of a multinomial, of a regression or "
                "of several outputs, no classes to measure predictions by; use evaluate, with "
                "metrics such as keras.metrics.R2Score() or harness.RecallAtK(20)"
            )
        return quality

    def evaluate_and_measure(
        self, rows: AnyRows, *, callbacks: Callbacks = ()
    ) -> tuple[dict[str, float], Quality | None]:
        """Returns what `evaluate` and `measure` return, in one pass; no quality if a label is no
        class."""
        examples = self._examples(rows)
        setup = self._set_up(examples)
        setup.task.check_labels(examples)
        # One pass gives the loss, the metrics and the probabilities that are measured.
        measures = setup.measures(examples, self._thresholds)
        how = {"step": self.step, "epoch": 0, "measures": measures}
        with outside_fit(callbacks, setup, examples, "test") as (hooks, ready):
            evaluation, _ = hooks.evaluate(ready.feed, ready.plan, **how)
        return {"loss": evaluation.loss, **evaluation.metrics}, measures

    @for_python()
    def predict(self, rows: AnyRows, *, callbacks: Callbacks = ()) -> Any:
        """Returns the model's outputs, float32 [rows, outputs], like `keras.Model.predict`; several
        as a mapping or a list, as the model gives them. It does not look at labels."""
        examples = without_labels(rows)
        setup = self._set_up(examples)
        with outside_fit(callbacks, setup, examples, "predict") as (hooks, ready):
            return setup.task.by_output(hooks.predict(ready.feed, ready.plan))

    @for_python()
    def recommend(self, rows: AnyRows, *, k: int = 20) -> Recommended:
        """Returns the K items with the highest outputs for each row. A `multinomial` leaves out
        those that the row has: the ids of the input that the task's `seen` names. Other tasks rank
        all outputs, such as classes. The outputs of all items stay on the device.

        Raises:
            InputError: when there are fewer than `k` outputs, or the rows lack the input `seen`.
        """
        examples = without_labels(rows)
        setup = self._set_up(examples)
        kind = setup.task.kind if setup.task.is_known else self._task.kind
        ranking = Ranking(k, self._task.seen if kind in ("auto", "multinomial") else None)
        several = setup.task.kind == "outputs"
        require(not several, "the model has several outputs; rank those that `predict` gives")
        ranking.check(examples, setup.task.num_outputs)
        with outside_fit((), setup, examples, "predict") as (hooks, ready):
            found = hooks.predict(ready.feed, ready.plan, ranking=ranking)
        return Recommended(items=found[:, k:].astype(np.int32), scores=found[:, :k])

    def save(self, path: str | Path) -> None:
        """Saves `model` as a .keras file, whole or not at all."""
        with replacing(Path(path)) as beside:
            self.model.save(beside)

    @for_python()
    def export(self, path: str | Path, *, format: Format = "saved_model") -> None:
        """Exports `model` for other programs, whole or not at all.

        Args:
            path: a new file, or for a SavedModel a new folder.
            format: `saved_model`, which TensorFlow runs without this package, and without Keras. It
                takes ids, and texts where `fit` was given a vocabulary for a single output. `onnx`:
                from ids to a single output; needs the extra `onnx`. `keras`: the file of `save`.

        Raises:
            InputError: when there is something at `path`, or the model cannot be exported to it.
        """
        task = self._kept.get("task") if self._setup is None else self._setup.task
        kind = task.kind if task is not None and task.is_known else self._task.kind
        several = task is not None and task.kind == "outputs"
        model, words = self.model, None if several else self._vocabulary
        if words is not None and self._thresholds is not None:
            words = words.with_thresholds(self._thresholds)
        export_model(
            model,
            path,
            format=format,
            vocabulary=words,
            head=head_of(model, kind),
            from_logits=self._task.from_logits,
        )

    @for_python()
    def steps(self, train: AnyRows, *, epochs: int = 1, console: Console | None = None) -> Steps:
        """Returns a training by the step, for benchmarks and profiles: no evaluation, files or end.

        Args:
            train: rows with labels.
            epochs: the number of epochs with an order of their own; then the first follows again.
            console: where to warn of GPUs that cannot be used; None for no warnings.
        """
        require_alone(os.environ)
        examples = self._examples(train)
        setup = self._set_up(examples, training=True, console=console)
        setup.task.check_labels(examples)
        rows = setup.rows_to_train(examples, epochs=epochs, repeating=True)
        training = Training(programs=setup.programs, rows=rows, cadence=setup.cadence(rows))
        info = dataset_info(examples, num_classes=setup.task.num_classes)
        asked = Asked(train=examples, epochs=epochs)
        start = run_start(setup, rows, info, replace(asked, config=self._config(asked)))
        self._by_steps = True
        return Steps(training, start)

    def _examples(
        self,
        rows: AnyRows,
        *,
        names: Sequence[Any] | None = None,
        name: str = "rows",
        like: Examples | None = None,
    ) -> Examples:
        """Returns rows whose labels are numbered as those that the model was trained on, or by
        `names`, or as those of `like`."""
        known = tuple(self.class_names if names is None else names)
        examples = as_examples(rows, class_names=known, name=name)
        settled = self._setup and self._setup.task
        examples = numbered(settled if settled and settled.is_known else self._task, examples, like)
        found = examples.class_names
        if found == (-1, 1) and self._task.kind == "regression":  # numbers after all
            targets = np.where(np.asarray(examples.labels) == 1, 1.0, -1.0).astype(np.float32)
            return replace(examples, labels=targets, class_names=())
        if found and found != known and (known or names is not None or self.step > 0):
            raise InputError(
                f"{examples.name} has the classes {', '.join(map(str, found))}, and the model was "
                f"trained on {', '.join(map(str, known)) or 'class numbers'}; give labels of "
                "these, as harness.as_examples(..., class_names=trainer.class_names) does"
            )
        if found and self._task.kind == "regression":
            of = f"the labels of {examples.name} are names of classes"
            raise InputError(f"{of}, and the task is a regression; give floats")
        return examples

    def _set_up(self, *parts: Examples, training: bool = False, **how: Any) -> Setup:
        """Returns the setup. Makes it for the first rows, and anew for the first rows with labels
        and the first to train on, if it lacks what these need."""
        given, optimizer, made = self._given, self._optimizer, self._setup
        task, kept = self._task, self._kept
        if training:
            self._take_up_optimizer()
        if made is not None:
            state = made.programs.state
            if not self._by_steps:  # someone may have changed the model since
                state.read_model()
            name_apart(made.model)  # a layer that was quantized has new variables
            lacks_task = not made.task.is_known and parts[0].labels is not None
            lacks_choices = training and "input" not in made.choices
            is_outdated = state.is_outdated or (training and state.optimizers.is_outdated)
            if not (lacks_task or lacks_choices or is_outdated):
                return made
            # The new one is built around the trained model.
            given, optimizer = self.model, state.optimizers.given
            if "input" in made.choices:  # it may have been trained
                kept = self._kept = made.kept()
        how |= {"cluster": cluster_of(os.environ), "strategy": self._strategy}
        if kept:
            how["before"] = how.get("before") or kept["before"]
            task = kept["task"] if kept["task"].is_known else task
        self._setup = set_up(
            given, task, optimizer, self.settings, *parts, training=training, **how
        )
        # The state of a copy waits for the first fit: predictions need the weights alone.
        if kept and training:
            self._setup.take_up(kept)
            self._kept = {}
        return self._setup

    def _take_up_optimizer(self) -> None:
        """Takes up what the user has set on the optimizer, given or in use, since the last fit."""
        pair = self._setup and self._setup.programs.state.optimizers
        if pair and pair.agree():
            self._optimizer, self._optimizer_config = pair.given, {}
        if not (pair and self._optimizer_config):
            self._optimizer_config = config_of(self._optimizer)

    def _config(self, asked: Asked) -> dict[str, Any]:
        options = vars(asked.options).items()
        return {
            "execution": asdict(self.settings),
            "optimizer": self._optimizer_config,
            "task": self._task.config(),
            "output": {n: str(v) if isinstance(v, Path) else v for n, v in options},
            "epochs": asked.epochs,
            "validation_freq": asked.validation_freq,
            "shuffle": asked.shuffle,
        }


def _task(given: AnyKind | Task) -> Task:
    return given if isinstance(given, Task) else Task(given)
