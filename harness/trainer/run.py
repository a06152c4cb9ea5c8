"""A run from its start to its end: it builds what it needs, restores a checkpoint, trains, and
writes its results. `harness.trainer.resuming` opens its folder first."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from signal import SIGTERM, SIGUSR1
from typing import Any

import keras
from rich.console import Console

from harness.base.checks import require, require_count
from harness.base.decoding import decoded
from harness.base.errors import InputError, printable
from harness.base.interrupt import Interrupt
from harness.base.timeline import Timeline
from harness.data.examples import Examples
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary
from harness.model.export import names_of
from harness.model.network import graph_of
from harness.model.variables import variables_by_name
from harness.program.model_programs import InspectionSchedule
from harness.program.strategy import name_of
from harness.run import machine, records
from harness.run.background import Background, BackgroundObserver
from harness.run.checkpoint_schedule import CheckpointSchedule
from harness.run.checkpoints import Checkpoints
from harness.run.history import Counters, History, Progress
from harness.run.observers import jsonl, run_files
from harness.run.observers.console import ConsoleObserver
from harness.run.profiling import ProfilerObserver
from harness.run.run_folder import clean_run_folder
from harness.run.telemetry.recorder import TelemetryRecorder
from harness.task.measures import MAX_RANKED, Quality
from harness.trainer import resuming
from harness.trainer.advice import advice, advice_on_rows
from harness.trainer.callbacks import History as FitHistory
from harness.trainer.callbacks import KerasCallbacks, checked, with_batch_hooks
from harness.trainer.loop import Rows, Training, train
from harness.trainer.settings import RunOptions, Settings
from harness.trainer.setup import Setup
from harness.workers.cluster import Cluster
from kernels.files import replacing

_MAX_NAME = 100  # Limit of the characters of a data set's name in what a run prints and writes
_TOGETHER = ("on_nan", "histograms", "precision_watch")  # decide when workers compute together


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a fit was asked for; `Trainer.fit` describes most of it."""

    train: Examples
    validation: Examples | None = None
    test: Examples | None = None  # The rows to test on, which may be those of `validation`
    epochs: int = 1
    initial_epoch: int = 0
    validation_freq: int | list[int] = 1
    shuffle: bool = True
    callbacks: Sequence[keras.callbacks.Callback] = ()
    options: RunOptions = field(default_factory=RunOptions)
    config: Mapping[str, Any] = field(default_factory=dict)  # to record; None: the trainer's
    vocabulary: Vocabulary | None = None
    console: Console | None = None  # The console to print to; None prints nothing
    timeline: Timeline = field(default_factory=Timeline)  # gets the stages of the fit

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        require_count("initial_epoch", self.initial_epoch, least=0)
        freq = self.validation_freq
        for epochs in freq if isinstance(freq, list) else [freq]:
            require_count("validation_freq", epochs)
        require(
            self.initial_epoch < self.epochs,
            f"initial_epoch is {self.initial_epoch} and epochs is {self.epochs}, so that none is "
            "left to train; set epochs to where the last one ends",
        )
        run_dir, overwrite = self.options.run_dir, self.options.overwrite
        fits = run_dir is not None or not overwrite
        require(fits, "--overwrite replaces the run in --run-dir; give it too")
        # A list, whatever Keras takes: one callback, or nested lists.
        object.__setattr__(self, "callbacks", checked(self.callbacks, run_dir=run_dir))

    @property
    def own_validation(self) -> Examples | None:
        return None if self.validation is self.test else self.validation

    def of_worker(self) -> "Asked":
        shared = {name: getattr(self.options, name) for name in _TOGETHER}
        return replace(self, options=RunOptions(**shared, telemetry_hz=0), console=None)

    def facts(self, settings: Settings) -> dict[str, Any]:
        """Returns the facts that must be the same in all workers, by their names in messages."""
        own = ("epochs", "initial_epoch", "validation_freq", "shuffle")
        named = {
            **asdict(settings),
            **{name: getattr(self.options, name) for name in _TOGETHER},
            **{name: getattr(self, name) for name in own},
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
        }
        parts = [self.train, *filter(None, (self.validation, self.test))]
        return {
            **{name.replace("_", " "): str(value) for name, value in named.items()},
            "the data's fingerprints": " ".join(part.fingerprint for part in parts),
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    start: records.RunStart = field(repr=False)
    history: FitHistory = field(repr=False)
    progress: Progress | None = field(repr=False, default=None)  # None if the run was complete
    summary: records.Summary | None = field(repr=False, default=None)
    quality: Quality | None = None  # for the test rows, else the validation rows, if any
    thresholds: Sequence[float] | None = None  # of each class, [K], if the fit chose some
    signal: int = 0  # The signal that asked for an end, be it after the last step; 0 for none

    @property
    def terminated(self) -> bool:
        return self.signal in (SIGTERM, SIGUSR1)


@dataclass(eq=False)
class Run:
    """One call of `Trainer.fit`, from building what it needs to writing its results."""

    asked: Asked
    opened: resuming.Opened
    setup: Setup
    last: Outcome | None  # of the trainer's previous fit
    steps_done: int  # by then; a run that is resumed reads its own from the checkpoint

    def __post_init__(self) -> None:
        asked, opened, setup = self.asked, self.opened, self.setup
        self._cluster: Cluster = setup.devices.cluster
        for examples in filter(None, (asked.train, asked.validation, asked.test)):
            setup.task.check_labels(examples)
        if setup.model.compiled:
            self._print("note: what the model was compiled with is not used; give it to Trainer")
        if batched := with_batch_hooks(asked.callbacks):
            self._print(f"note: {', '.join(batched)} wants every batch: dispatches are of one step")
        self._by_step = bool(batched)
        self._steps_per_epoch = setup.settings.steps_per_epoch(asked.train.num_rows)
        self._epochs_done = self.steps_done // self._steps_per_epoch
        self._rows = setup.rows_to_train(
            asked.train,
            epochs=self._epochs_done + asked.epochs,
            by_step=self._by_step,
            shuffle=asked.shuffle,
        )
        validation, test = asked.validation, asked.test
        self._validation = self._test = self._measures = None
        if validation is not None:
            by_batch = bool(with_batch_hooks(asked.callbacks, "test"))
            self._validation = setup.rows_to_evaluate(validation, by_step=by_batch)
        if test is not None and test is not validation:
            self._test = setup.rows_to_evaluate(test)
        self._measured = validation if test is None else test
        if self._measured is not None:
            self._measures = setup.measures(self._measured)
        # Checkpoints are restored by name, which swapped layers of one shape would pass.
        names = "\n".join(variables_by_name(setup.model))
        self._weights = hashlib.sha256(names.encode()).hexdigest()
        self._thresholds: Sequence[float] | None = None  # once the run has chosen some
        self._info = dataset_info(
            asked.train, asked.own_validation, test, num_classes=setup.task.num_classes
        )
        self._background = Background()
        self._checkpoints: Checkpoints | None = None
        if opened.claim is not None:  # None on workers other than the chief
            self._checkpoints = Checkpoints(
                opened.claim.path / run_files.CHECKPOINT_FOLDER_NAME,
                setup.programs.state,
                self._background,
                keep=asked.options.keep,
                check=opened.claim.check,
            )
        self._before = Counters()  # The counters of the state that the run starts from
        self.outcome: Outcome | None = None  # None while the state is as it was before
        self._skipped: list[str] = []  # why, for each checkpoint that was skipped

    def run(self) -> Outcome:
        # 1. Where the run starts, and whether anything is left to do.
        self._start = start = self._restore()
        self._callbacks = KerasCallbacks(
            self.asked.callbacks,
            self.setup,
            validation_freq=self.asked.validation_freq,
            epochs=self.asked.epochs,
            steps=self._steps_per_epoch,
            run_dir=start.run_dir,
            start_step=start.start_step,
        )
        if self.opened.recorded is not None:
            self._come_to(Progress(step=start.start_step, counters=self._before))
        if self._cluster.from_chief(lambda: resuming.has_ended(start, self.opened)):
            return self._left_as_it_is()
        # 2. What may still refuse the run comes before the folder is cleared.
        self._profilers = self._made_profilers()
        self._training = self._to_train()
        compiled = self._make_room()
        self._begin()
        # 3. Signals stop only the training; what follows is short and comes to its end.
        with Interrupt() as interrupt, ExitStack() as closing:
            # Several workers cannot agree to stop before their first dispatch.
            interrupt.nothing_to_save = not self._cluster.is_alone
            progress = self._train(interrupt, closing, compiled)
            terminated = self._write_model(progress, interrupt)
            summary, quality = self._finish(progress, terminated=terminated)
        # All workers have to agree on the signal.
        signal = self._cluster.most([interrupt.by or 0])[0]
        return self._come_to(progress, summary=summary, quality=quality, signal=signal)

    def _come_to(self, progress: Progress | None = None, **found: Any) -> Outcome:
        history, thresholds = self._callbacks.history, self._thresholds
        how = {"history": history, "thresholds": thresholds, **found}
        self.outcome = Outcome(start=self._start, progress=progress, **how)
        return self.outcome

    # Restoring: which step the run starts from.

    def _restore(self) -> records.RunStart:
        """Restores a resumed run's checkpoint, and gives all workers the chief's state."""
        asked, opened, last = self.asked, self.opened, self.last
        # A fit in the folder of the one before goes on counting where that one ended.
        goes_on = last is not None and last.start.run_dir == str(opened.folder or "")
        if last is not None and last.progress is not None and goes_on and not opened.overwrite:
            self._before = last.progress.counters
        step, epochs = self._span(asked.initial_epoch)
        if step % self._steps_per_epoch == 0:  # an error may have ended the epoch before
            self._before = replace(self._before, epoch_examples=0, epoch_sums={})
        restored = self._restore_checkpoint if opened.recorded is not None else lambda: step
        start_step = self._cluster.from_chief(restored)
        # Each worker built its own initial values; only the chief has read a checkpoint.
        self.setup.programs.take_from_chief()
        start = run_start(
            self.setup,
            self._rows,
            self._info,
            replace(asked, epochs=epochs, config={**asked.config, "epochs": epochs}),
            folder=opened.folder,
            start_step=start_step,
        )
        if opened.recorded is None:
            return start
        # The list of resumes in config.json grows by this one.
        changed = resuming.changes(opened.recorded, run_files.resolved_config(start))
        if changed:
            self._print(resuming.changed_note(changed))
        earlier = opened.recorded[run_files.RESOLVED].get("resumed", [])
        return replace(start, resumed=[*earlier, {"step": start_step, "changed": changed}])

    def _span(self, first: int) -> tuple[int, int]:
        """Returns the first step, and the number of epochs that all fits have together."""
        total = max(self._epochs_done, first) + max(self.asked.epochs - first, 0)
        return max(self.steps_done, first * self._steps_per_epoch), total

    def _restore_checkpoint(self) -> int:
        folder, recorded = self.opened.folder, self.opened.recorded
        assert folder is not None
        assert recorded is not None
        assert self._checkpoints is not None
        # Before the state: a checkpoint of other data may not even fit the model.
        resuming.check_same_data(folder, recorded, self._info)
        restored = self._checkpoints.restore()
        self._skipped = list(restored.skipped)
        step, counters = restored.step, restored.about.get("counters", {})
        require(
            restored.about.get("weights", self._weights) == self._weights,
            f"the checkpoint after step {step} in {folder} is of another network, whose layers of "
            "the same names stand in another order; resume with that network, or train with "
            "--overwrite to start anew",
        )
        if isinstance(counters, dict):
            for name in ("best_loss", "best_step"):  # which earlier versions kept, too
                counters.pop(name, None)
        self._before = decoded(Counters, counters, where=f"the checkpoint after step {step}")
        resuming.check_same_data(folder, restored.about.get("config", recorded), self._info)
        # Checks that the records up to that step can be read.
        jsonl.kept_bytes(folder / jsonl.FILE_NAME, step)
        return step

    def _left_as_it_is(self) -> Outcome:
        start, folder = self._start, self.opened.folder
        if folder is not None:  # only the chief writes
            clean_run_folder(folder, self.opened.event_folder, clear=False)
            self._print(resuming.complete_note(folder, start.start_step))
            # A callback may have changed these weights since the last checkpoint.
            self.setup.model.load_weights(folder / run_files.MODEL_FILE_NAME)
            self.setup.programs.state.read_model()
            words = folder / VOCABULARY_FILE_NAME
            if self._chooses_thresholds and words.is_file():
                self._thresholds = Vocabulary.load(words).thresholds
        return self._come_to()

    # Training.

    def _to_train(self) -> Training:
        asked, start, programs = self.asked, self._start, self.setup.programs
        measures = self._measures if self._measured is asked.validation else None
        if asked.validation is not None and self.setup.task.kind == "multi_label":
            measures = measures or self.setup.measures(asked.validation)
        may_change = bool(asked.callbacks) or bool(programs.state.optimizer.use_ema)
        inspections = InspectionSchedule(
            histograms_every=asked.options.histograms,
            precision_every=int(start.choices["precision_watch"].value),
        )
        by_time = CheckpointSchedule.of(asked.options.checkpoint_every).seconds is not None
        needs_state = (
            self._validation is not None
            or may_change
            or any(inspections)
            or bool(self._profilers)  # which see a dispatch only as a whole
            or (self._checkpoints is not None and not by_time)
        )
        return Training(
            programs=programs,
            rows=self._rows,
            validation=self._validation,
            evaluation=self._callbacks.validate,
            measures=measures,
            cadence=self.setup.cadence(self._rows, by_step=self._by_step, needs_state=needs_state),
            inspections=inspections,
            checkpoints=self._checkpoints,
            about={"config": run_files.resolved_config(start), "weights": self._weights},
            start_step=start.start_step,
            may_change=may_change,
        )

    def _make_room(self) -> Sequence[records.Compilation]:
        """Clears the folder for the run; returns the compilations done before."""
        asked, opened, training = self.asked, self.opened, self._training
        if asked.options.summary and asked.console is not None:
            self.setup.model.summary(line_length=80, print_fn=asked.console.out)
        compiled: Sequence[records.Compilation] = ()
        if self._cluster.from_chief(lambda: opened.overwrite):
            # Only when it is sure that another run can take its place. All workers compile: a trial
            # run of a program sums over them.
            compiled = training.prepare(*next(training.dispatches(epochs=self._start.epochs)))
            asked.timeline.mark("compilation before the run")
        if opened.folder is not None:
            clean_run_folder(opened.folder, opened.event_folder, clear=opened.overwrite)
            if asked.vocabulary is not None:
                asked.vocabulary.save(opened.folder / VOCABULARY_FILE_NAME)
        return compiled

    def _begin(self) -> None:
        """Begins the callbacks; starts from the state that one of them restored, if any."""
        first = self._callbacks.begin()
        is_resumed = self.opened.recorded is not None
        if (first := self._cluster.from_chief(lambda: None if is_resumed else first)) is not None:
            self.setup.programs.take_from_chief()
            step, epochs = self._span(first)
            self._training = replace(self._training, start_step=step)
            self._start = replace(self._start, start_step=step, epochs=epochs)

    def _train(
        self, interrupt: Interrupt, closing: ExitStack, compiled: Sequence[records.Compilation]
    ) -> Progress:
        asked, cluster = self.asked, self._cluster
        start, training, callbacks = self._start, self._training, self._callbacks
        listeners = self._listeners()
        closing.callback(listeners.close)
        bus_ids, hz = self.setup.devices.pci_bus_ids, asked.options.telemetry_hz
        telemetry = closing.enter_context(TelemetryRecorder(hz=hz, bus_ids=bus_ids))
        closing.enter_context(self._background)  # ends before the observers are closed
        profilers = [closing.enter_context(profiler) for profiler in self._profilers]
        self._history = history = History(
            [*profilers, callbacks, listeners],
            telemetry=telemetry,
            running={metric.name for metric in self.setup.task.stateful},
            start_step=start.start_step,
            stop_at_nan=asked.options.on_nan == "stop",
            before=self._before,
            learning_rate=lambda: self.setup.programs.learning_rate,
        )
        self._come_to(history.progress)  # in case of an error
        history.tell(start)
        history.warn(*(f"{why} It is skipped." for why in self._skipped))
        if self.setup.programs.compiles_in_part:
            history.note(
                "BatchNormalization needs sums over all workers in the middle of a step: XLA "
                "compiles only what comes after the all-reduce of the gradients"
            )
        asked.timeline.mark("start of the run")
        history.compiled(compiled)

        checkpoints = self._checkpoints
        saving = CheckpointSchedule.of(
            asked.options.checkpoint_every,
            is_busy=lambda: checkpoints is not None and checkpoints.is_writing,
            decided=lambda due: cluster.any(due and cluster.is_chief),
        )
        # If a callback stopped the run and it was then killed, only its end is left to do.
        is_resumed = self.opened.recorded is not None
        stopped = cluster.any(is_resumed and callbacks.wants_to_stop)
        progress = train(
            () if stopped else training.dispatches(epochs=start.epochs),
            training,
            history,
            steps_per_epoch=start.steps_per_epoch,
            should_stop=lambda: interrupt.told(training.agree(cluster, wish=interrupt.by or 0)),
            is_done=lambda: bool(asked.callbacks) and cluster.any(callbacks.wants_to_stop),
            saving=saving if cluster.from_chief(lambda: checkpoints is not None) else None,
        )
        history.note(*(profiler.finish() for profiler in profilers))
        self._background.wait()
        if interrupt.by is not None and interrupt.is_termination:
            saved = "the state is saved; --resume goes on from there"
            text = f"{interrupt.by.name}: the training stops, "
            history.note(text + (saved if start.run_dir else "nothing is saved"))
        asked.timeline.mark(
            "waiting for files, start of the feed",
            compilation=sum(made.seconds for made in progress.compilations[len(compiled) :]),
            training=progress.windows.train_seconds,
            evaluation=sum(e.evaluation.seconds for e in progress.epochs if e.evaluation),
        )
        return progress

    # Finishing: the results of the run.

    def _write_model(self, progress: Progress, interrupt: Interrupt) -> bool:
        """Writes model.keras; returns whether a signal has ended the run."""
        claim, programs = self.opened.claim, self.setup.programs
        # Keras finalizes the weights first, so that on_train_end sees the averages.
        programs.finish()
        self._callbacks.finish()
        programs.take_from_chief()  # whose callbacks may have gone back to the best epoch
        if claim is not None:
            claim.check()
            if progress.divergence is None:
                with replacing(claim.path / run_files.MODEL_FILE_NAME) as beside:
                    self.setup.model.save(beside)
        # All workers have to agree on it.
        return self._cluster.any(progress.interrupted and interrupt.is_termination)

    def _finish(
        self, progress: Progress, *, terminated: bool
    ) -> tuple[records.Summary, Quality | None]:
        """Evaluates the saved model, tells observers the summary; returns it and the quality."""
        asked, setup, start = self.asked, self.setup, self._start
        validation, test = self._evaluate(progress, terminated=terminated)
        asked.timeline.mark("final evaluation")
        # `_measures` holds the probabilities of the pass that came last over its rows.
        measured = validation if asked.test is None else test
        quality = self._measures if measured is not None else None
        # Advice is about a training that came to its end.
        if not progress.interrupted and progress.divergence is None:
            named = asked.vocabulary.class_names if asked.vocabulary else ()
            names = names_of(named, setup.task.num_classes)
            validates = asked.own_validation is not None
            early = progress.step < start.total_steps
            told = advice(progress, quality, names, validates=validates, stopped_early=early)
            self._history.note(*told, *self._advice_on_rows(quality))
        summary = run_files.summarize(
            start,
            progress,
            test=test,
            validation=validation,
            figures=quality.figures() if quality is not None else {},
            wall_seconds=asked.timeline.elapsed_seconds,
        )
        self._history.tell(summary)
        asked.timeline.mark("end of the run")
        return summary, quality

    def _advice_on_rows(self, quality: Quality | None) -> Iterator[str]:
        asked, rows = self.asked, self._measured
        is_told = asked.console is not None or self.opened.folder is not None
        if not is_told or quality is None or rows is None:
            return
        # Of settings that no recipe chose, as in a throughput run, nobody expects the best figures.
        searched = asked.config.get(run_files.RESOLVED, {}).get("recipe") is not None
        untrained = self.setup.measures(rows) if searched else None
        what = "test" if rows is asked.test else "validation"
        yield from advice_on_rows(asked.train, rows, quality, untrained, what=what)

    def _evaluate(
        self, progress: Progress, *, terminated: bool
    ) -> tuple[records.Evaluation | None, records.Evaluation | None]:
        asked, programs, training = self.asked, self.setup.programs, self._training
        step, last_epoch = progress.step, self._start.epochs - 1
        found = [epoch.evaluation for epoch in progress.epochs if epoch.evaluation is not None]
        validation, test = found[-1] if found else None, None

        def evaluated(rows: Rows, measures: Any) -> records.Evaluation:
            return programs.evaluate(
                rows.feed, rows.plan, step=step, epoch=last_epoch, measures=measures
            )[0]

        if progress.divergence is None:
            # A callback may have changed the weights since.
            if self._cluster.any(not training.is_current(validation, step=step)):
                validation = None
            # After a signal the machine may be gone soon.
            if self._validation is not None and validation is None and not terminated:
                validation = evaluated(self._validation, training.measures)
            if self._chooses_thresholds and not terminated:
                validation = self._choose_thresholds(evaluated) or validation
            if self._test is not None and not terminated:
                test = evaluated(self._test, self._measures)
        return validation, validation if asked.test is asked.validation else test

    @property
    def _chooses_thresholds(self) -> bool:
        task, asked = self.setup.task, self.asked
        is_open = task.kind == "multi_label" and task.thresholds is None
        return is_open and asked.own_validation is not None and asked.test is not None

    def _choose_thresholds(
        self, evaluated: Callable[[Rows, Quality], records.Evaluation]
    ) -> records.Evaluation | None:
        """Chooses the thresholds on the validation rows, keeps them in the vocabulary's file, and
        returns the evaluation of these rows with them; None if labels are no classes, or many."""
        setup, rows, ready = self.setup, self.asked.validation, self._validation
        assert rows is not None
        assert ready is not None
        assert self._measured is not None
        if (measures := setup.measures(rows)) is None:
            return None
        evaluated(ready, measures)
        if (thresholds := measures.best_thresholds()) is None:
            self._print(
                f"note: no thresholds are chosen, so 0.5 holds: that takes {MAX_RANKED:,} finite "
                f"probabilities at most, and {rows.num_rows:,} validation rows of "
                f"{measures.num_classes:,} classes have {rows.num_rows * measures.num_classes:,}"
            )
            return None
        self._thresholds = thresholds
        self._measures = setup.measures(self._measured, thresholds)
        claim, words = self.opened.claim, self.asked.vocabulary
        if claim is not None and words is not None:
            words.with_thresholds(thresholds).save(claim.path / VOCABULARY_FILE_NAME)
        return evaluated(ready, setup.measures(rows, thresholds) or measures)

    # Whom the run tells.

    def _print(self, text: str) -> None:
        if self.asked.console is not None:
            self.asked.console.print(printable(text), soft_wrap=True, markup=False, highlight=False)

    def _listeners(self) -> BackgroundObserver:
        """Returns an observer that writes and prints the records in the background: files and the
        terminal may be slow, and the device gets its next work first."""
        listeners: list[records.Observer] = []
        events = self.opened.event_folder
        if self.opened.folder is not None:
            # The summary ends last: it marks the run as complete.
            listeners += [run_files.SummaryObserver(), jsonl.JsonlObserver()]
        if events is not None:
            from harness.run.observers.tensorboard import TensorBoardObserver  # takes 0.3 s

            listeners.append(TensorBoardObserver(events))
        if self.asked.console is not None:
            listeners.append(ConsoleObserver(self.asked.console, tensorboard_dir=events))
        return BackgroundObserver(listeners, self._background)

    def _made_profilers(self) -> list[ProfilerObserver]:
        """Returns the profiler of `profile_steps`, unless a run that is resumed is past them."""
        start, steps = self._start, self.asked.options.profile_steps
        if steps is None or steps[1] <= start.start_step:
            return []
        folder, (first, last) = self.opened.event_folder or self.opened.folder, steps
        if folder is None:
            raise InputError("--profile-steps needs --run-dir, the folder for the profile")
        require(
            first < start.total_steps,
            f"--profile-steps is {first} {last}, but the run has {start.total_steps} steps; name "
            "earlier ones",
        )
        # The first dispatch compiles.
        return [ProfilerObserver(folder, max(first, start.start_step + 1), last - first)]


def run_start(
    setup: Setup,
    rows: Rows,
    info: records.DatasetInfo,
    asked: Asked,
    *,
    folder: Path | None = None,
    start_step: int = 0,
) -> records.RunStart:
    watch, why = str(asked.options.precision_watch), "asked for"
    if watch == "auto":
        precision = setup.choices["precision"].name
        watch, why = ("0", "not needed in float32") if precision == "float32" else ("1", precision)
    # Of rows that may have several classes, an answer without any has a high accuracy.
    is_led = setup.task.kind == "multi_label" and setup.measures(asked.train) is not None
    leading = ("f1_micro", "f1_macro") if is_led else ()
    choices = {**setup.choices, "precision_watch": records.Choice(name=watch, why=why)}
    return records.RunStart(
        run_dir="" if folder is None else str(folder),
        config=asked.config,
        dataset=info,
        devices=setup.devices.descriptions,
        strategy=name_of(setup.devices.strategy),
        task=records.Choice(name=setup.task.kind, why=setup.task.why),
        metrics=(*leading, *setup.task.metric_names),
        choices=choices,
        batch_size=rows.plan.batch_size,
        learning_rate=setup.programs.learning_rate,
        num_parameters=setup.model.count_params(),
        graph=graph_of(setup.model),
        steps_per_epoch=rows.plan.steps_per_epoch,
        epochs=asked.epochs,
        start_step=start_step,
        versions=machine.versions(),
        host=machine.host(),
        workers=setup.devices.cluster.num_workers,
    )


def dataset_info(
    train: Examples,
    validation: Examples | None = None,
    test: Examples | None = None,
    *,
    num_classes: int,
) -> records.DatasetInfo:
    # One fingerprint for all rows, in a fixed order of the parts.
    prints = [part.fingerprint for part in (train, validation, test) if part is not None]
    return records.DatasetInfo(
        name=printable(train.name, most=_MAX_NAME, one_line=True),
        rows=train.num_rows,
        test_rows=0 if test is None else test.num_rows,
        validation_rows=0 if validation is None else validation.num_rows,
        num_tokens=max((sets.num_tokens for sets in train.ragged.values()), default=0),
        num_classes=num_classes,
        nnz=train.nnz,
        unique=all(sets.is_unique for sets in train.ragged.values()),
        fingerprint=hashlib.sha256("".join(prints).encode()).hexdigest(),
        weighted=any(sets.weights is not None for sets in train.ragged.values()),
    )
