"""A fit from its start to its end: the run's folder, who is told, the loop, and what is left."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from harness.base.decoding import decoded
from harness.base.errors import InputError, printable
from harness.base.interrupt import Interrupt
from harness.base.timeline import Timeline
from harness.data.examples import Examples
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary
from harness.model.export import names_of
from harness.model.saved import save_model
from harness.program.checkpoints import Checkpoints
from harness.program.inspection import Looks
from harness.program.saving import Every, Saving
from harness.run.background import Background, BackgroundObserver
from harness.run.history import Counters, Progress
from harness.run.observers.console import ConsoleObserver
from harness.run.observers.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.run.observers.jsonl import JsonlObserver, kept_bytes
from harness.run.observers.profiler import ProfilerObserver
from harness.run.observers.run_files import (
    CHECKPOINT_FOLDER_NAME,
    MODEL_FILE_NAME,
    RESOLVED,
    TENSORBOARD_FOLDER_NAME,
    SummaryObserver,
    resolved_config,
    summarize,
)
from harness.run.observers.telemetry import MachineTelemetry
from harness.run.records import (
    Compilation,
    Message,
    Observer,
    RunStart,
    Summary,
)
from harness.run.run_folder import Claim, clean_run_folder
from harness.task.measures import Quality
from harness.trainer.callbacks import KerasCallbacks, with_batch_hooks
from harness.trainer.loop import Run
from harness.trainer.loop import train as train_loop
from harness.trainer.resuming import (
    changed_note,
    changes,
    check_same_data,
    complete_note,
    has_ended,
)
from harness.trainer.run_options import RunOptions, step_range
from harness.trainer.setup import Setup
from harness.trainer.start import dataset_info, identity, run_start
from kernels.files import replacing

_IN_PART = (
    "the model's BatchNormalization layers need sums over all workers in the middle of a step: "
    "TensorFlow runs what comes before the all-reduce of the gradients, and XLA compiles only "
    "what comes after it"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fit came to."""

    start: RunStart = field(repr=False)
    history: keras.callbacks.History = field(repr=False)
    progress: Progress | None = field(repr=False, default=None)
    """None, as the summary, where all had been done before."""
    summary: Summary | None = field(repr=False, default=None)
    quality: Quality | None = None
    """Of the predictions for the test rows; None where there are none, and where their labels are
    no classes."""
    profiler: ProfilerObserver | None = None
    terminated: bool = False
    """Whether SIGTERM or SIGUSR1 interrupted it."""


def fit(
    setup: Setup,
    train: Examples,
    validation: Examples | None,
    test: Examples | None,
    *,
    epochs: int,
    initial_epoch: int,
    validation_freq: int | list[int],
    shuffle: bool,
    steps_done: int,
    callbacks: Sequence[keras.callbacks.Callback],
    claim: Claim | None,
    event_folder: Path | None,
    last: Outcome | None,
    recorded: Mapping[str, Any] | None,
    overwrite: bool,
    keep_best: bool,
    options: RunOptions,
    config: Mapping[str, Any],
    vocabulary: Vocabulary | None,
    console: Console | None,
    summary: bool,
    timeline: Timeline,
) -> Outcome:
    """Trains to the last epoch, and writes what a run leaves.

    Args:
        setup: what trains.
        train, validation, test: rows with labels.
        epochs, initial_epoch, validation_freq, shuffle: as of `keras.Model.fit`.
        steps_done: before; of a run that is resumed its checkpoint says it.
        callbacks: Keras's.
        claim, event_folder: where the run and its event files go. None: nothing is written.
        last: of the fit before, by the same trainer.
        recorded: what config.json holds of the run in the folder, which is resumed; else None.
        overwrite: whether to replace the run in the folder.
        keep_best: whether the validation rows may choose a checkpoint to keep.
        options: of the run.
        config: recorded.
        vocabulary: recorded, where there is one.
        console: where to print; None: nowhere.
        summary: whether to print the model's layers.
        timeline: to mark the stages on.

    Raises:
        InputError: when the rows do not fit, or the run in the folder cannot be resumed.
        OSError: when a file cannot be written, naming it.
        LostFolderError: when the run's folder was moved or removed meanwhile.
    """
    folder = None if claim is None else claim.path
    # 1. The rows.
    for examples in filter(None, (train, validation, test)):
        setup.task.check_labels(examples)
    batched = with_batch_hooks(callbacks)
    if batched:
        _print(console, f"note: {', '.join(batched)} wants every batch: dispatches are of one step")
    by_step, by_batch = bool(batched), bool(with_batch_hooks(callbacks, "test"))
    steps_per_epoch = -(-train.num_rows // setup.settings.batch_size)
    epochs_done = steps_done // steps_per_epoch
    rows = setup.rows_to_train(train, epochs=epochs_done + epochs, by_step=by_step, shuffle=shuffle)
    held_out = None if validation is None else setup.rows_to_evaluate(validation, by_step=by_batch)
    tested = None if test is None or test is validation else setup.rows_to_evaluate(test)
    measured = validation if test is None else test
    measures = None if measured is None else setup.measures(measured)
    info = dataset_info(train, validation, test, num_classes=setup.task.num_classes)

    # 2. Where it starts from. Orders and records count the epochs of all fits.
    def span(first: int) -> tuple[int, int]:
        """The step to start from and the epochs in all, by the number of the first epoch."""
        total = max(epochs_done, first) + max(epochs - first, 0)
        return max(steps_done, first * steps_per_epoch), total

    start_step, total = span(initial_epoch)
    background = Background()
    checkpoints, before, resumed = None, Counters(), list[Mapping[str, Any]]()
    same = last is not None and last.start.run_dir == str(folder or "") and not overwrite
    if last is not None and same and last.progress is not None:
        before = last.progress.counters  # it goes on with that run
    cluster = setup.devices.cluster
    if claim is not None and folder is not None:
        checkpoints = Checkpoints(
            folder / CHECKPOINT_FOLDER_NAME,
            setup.engine.states,
            background,
            keep=options.keep,
            check=claim.check,
        )

    skipped: list[str] = []

    def restore() -> int:
        nonlocal before, resumed
        if folder is None or recorded is None or checkpoints is None:
            return start_step
        check_same_data(folder, recorded, info)
        restored = checkpoints.restore()
        skipped.extend(restored.skipped)
        step, counters = restored.step, restored.about.get("counters", {})
        before = decoded(Counters, counters, where=f"the checkpoint after step {step}")
        check_same_data(folder, restored.about.get("config", recorded), info)
        # Checks that they can be read.
        kept_bytes(folder / METRICS_FILE_NAME, step, every_epoch=validation_freq == 1)
        changed = changes(recorded, identity(setup))
        earlier = recorded[RESOLVED].get("resumed")
        earlier = earlier if isinstance(earlier, list) else []
        resumed = [*earlier, {"step": step, "changed": changed}]
        if changed:
            _print(console, changed_note(changed))
        return step

    start_step = cluster.from_chief(restore)
    is_saving = cluster.from_chief(lambda: checkpoints is not None)
    setup.engine.take_from_chief()
    start = run_start(
        setup,
        rows,
        info,
        folder=folder,
        options=options,
        config={**config, "epochs": total},
        epochs=total,
        start_step=start_step,
        resumed=resumed,
    )
    keras_callbacks = KerasCallbacks(
        callbacks,
        setup,
        validation_freq=validation_freq,
        epochs=epochs,
        steps=steps_per_epoch,
        run_dir=start.run_dir,
        start_step=start_step,
    )
    history = keras_callbacks.history
    if cluster.from_chief(lambda: has_ended(start, folder, recorded)):
        if folder is None:  # the chief alone writes
            return Outcome(start=start, history=history)
        clean_run_folder(folder, event_folder, clear=False)
        _print(console, complete_note(folder, start_step))
        setup.model.load_weights(folder / MODEL_FILE_NAME)  # the last checkpoint's, or a callback's
        setup.engine.read_model()
        return Outcome(start=start, history=history)

    # 3. The run, and room for it.
    profiler = _profiler(options, start, event_folder, recorded)
    if summary and console is not None:
        setup.model.summary(line_length=80, print_fn=console.out)
    run = Run(
        engine=setup.engine,
        rows=rows,
        validation=held_out,
        evaluation=keras_callbacks.validate,
        measures=measures if measured is validation else None,
        cadence=setup.cadence(rows, by_step=by_step),
        looks=Looks(
            histograms_every=options.histograms,
            precision_every=int(start.choices["precision_watch"].value),
        ),
        checkpoints=checkpoints,
        about={"config": resolved_config(start)} if checkpoints is not None else {},
        start_step=start_step,
        may_change=bool(callbacks) or bool(setup.engine.states[0].optimizer.use_ema),
    )
    compiled: Sequence[Compilation] = ()
    if folder is not None:
        if overwrite:  # not before it is sure that another run can take its place
            compiled = run.prepare(*next(run.dispatches(epochs=total)))
            timeline.mark("compilation before the run")
        clean_run_folder(folder, event_folder, clear=overwrite)
        if vocabulary is not None:
            vocabulary.save(folder / VOCABULARY_FILE_NAME)
    first = keras_callbacks.begin()
    if (first := cluster.from_chief(lambda: None if recorded else first)) is not None:
        setup.engine.take_from_chief()  # whose callback has restored it
        start_step, total = span(first)
        run = replace(run, start_step=start_step)
        start = replace(start, start_step=start_step, epochs=total)

    # 4. The training. Signals stop it; what follows is short, and comes to its end.
    # Files and the terminal may be slow: the device gets its next work before they are told.
    listeners = BackgroundObserver(_listeners(folder, event_folder, console), background)
    observers = [*([profiler] if profiler else []), keras_callbacks, listeners]
    with Interrupt() as interrupt, ExitStack() as closing:
        for observer in observers:
            closing.callback(observer.close)
        telemetry = closing.enter_context(
            MachineTelemetry(hz=options.telemetry_hz, bus_ids=setup.devices.pci_bus_ids)
        )
        closing.enter_context(background)  # ends before they are closed
        for observer in observers:
            observer.on_start(start)
            for why in skipped:
                observer.on_message(Message(kind="warning", text=f"{why} It is skipped."))
            if setup.engine.compiles_in_part:
                observer.on_message(Message(kind="note", text=_IN_PART))
        timeline.mark("start of the run")
        # A run that was killed after a callback had stopped it is only completed.
        stopped = start_step > 0 and cluster.any(keras_callbacks.wants_to_stop)
        progress = train_loop(
            () if stopped else run.dispatches(epochs=total),
            run,
            observers,
            steps_per_epoch=start.steps_per_epoch,
            telemetry=telemetry,
            compiled=compiled,
            running={metric.name for metric in setup.task.stateful},
            start_step=start_step,
            should_stop=lambda: interrupt.told(run.agree(cluster, wish=interrupt.by or 0)),
            is_done=lambda: bool(callbacks) and cluster.any(keras_callbacks.wants_to_stop),
            stop_at_nan=options.on_nan == "stop",
            saving=_saving(options, start_step, checkpoints) if is_saving else None,
            keep_best=keep_best,
            decided=cluster.decided_by_chief,
            before=before,
        )
        background.wait()
        if interrupt.by is not None and interrupt.is_termination:
            for observer in observers:
                observer.on_message(Message(kind="note", text=_stopped(interrupt.by, start)))
        timeline.mark(
            "waiting for files, start of the feed",
            compilation=sum(made.seconds for made in progress.compilations[len(compiled) :]),
            training=progress.windows.train_seconds,
            evaluation=sum(e.evaluation.seconds for e in progress.epochs if e.evaluation),
        )

        # 5. What it leaves.
        setup.engine.finish()
        keras_callbacks.finish()
        setup.engine.take_from_chief()  # whose callbacks may have gone back to the best epoch
        if claim is not None:
            claim.check()
        if progress.divergence is None and folder is not None:
            with replacing(folder / MODEL_FILE_NAME) as beside:
                save_model(setup.model, beside)
        timeline.mark("saving the model")
        # The machine may be gone soon; of several workers all have to see it alike.
        terminated = cluster.any(progress.interrupted and interrupt.is_termination)
        found = [epoch.evaluation for epoch in progress.epochs if epoch.evaluation is not None]
        on_validation, on_test = found[-1] if found else None, None
        evaluate = partial(setup.engine.evaluate, step=progress.step, epoch=total - 1)
        if progress.divergence is None:
            # A callback may have changed the weights since; figures are of the saved model.
            if cluster.any(not run.is_current(on_validation, step=progress.step)):
                on_validation = None
            if held_out is not None and on_validation is None and not terminated:
                on_validation, _ = evaluate(held_out.feed, held_out.plan, measures=run.measures)
            if tested is not None and not terminated:
                on_test, _ = evaluate(tested.feed, tested.plan, measures=measures)
        on_test = on_validation if test is validation else on_test
        timeline.mark("final evaluation")
        quality = None
        if measures is not None and (on_validation if test is None else on_test) is not None:
            quality = measures.quality()
        results = summarize(
            start,
            progress,
            test=on_test,
            validation=on_validation,
            figures=quality.figures() if quality is not None else {},
            wall_seconds=timeline.elapsed_seconds,
            workers=cluster.num_workers,
            alone_step_seconds=setup.engine.alone_step_seconds,
        )
        ended = not progress.interrupted and progress.divergence is None
        if hint := quality.hint(_names(setup, vocabulary)) if quality and ended else None:
            for observer in observers:
                observer.on_message(Message(kind="note", text=hint))
        for observer in observers:
            observer.on_end(results)
        timeline.mark("end of the run")
    return Outcome(
        start=start,
        history=history,
        progress=progress,
        summary=results,
        quality=quality,
        profiler=profiler,
        terminated=terminated,
    )


def _stopped(by: signal.Signals, start: RunStart) -> str:
    """Of a run that was told to end."""
    saved = (
        "the state is saved; --resume goes on from there" if start.run_dir else "nothing is saved"
    )
    return f"{by.name}: the training stops, {saved}"


def _print(console: Console | None, text: str) -> None:
    """One line, if there is somewhere to print it."""
    if console is not None:
        console.print(printable(text), soft_wrap=True, markup=False, highlight=False)


def _names(setup: Setup, vocabulary: Vocabulary | None) -> Sequence[str]:
    """Of the classes, [K]."""
    return names_of(vocabulary.class_names if vocabulary else (), setup.task.num_classes)


def _listeners(folder: Path | None, events: Path | None, console: Console | None) -> list[Observer]:
    """What writes and prints the records."""
    listeners: list[Observer] = []
    if folder is not None:
        # The summary ends last: it marks the run as complete.
        listeners += [SummaryObserver(), JsonlObserver()]
    if events is not None:
        from harness.run.observers.tensorboard import TensorBoardObserver  # takes 0.3 s

        listeners.append(TensorBoardObserver(events))
    if console is not None:
        listeners.append(ConsoleObserver(console, tensorboard_dir=events))
    return listeners


def _saving(options: RunOptions, start_step: int, checkpoints: Checkpoints | None) -> Saving:
    """When checkpoints are saved."""
    return Saving(
        Every.of(options.checkpoint_every),
        start_step=start_step,
        is_busy=lambda: checkpoints is not None and checkpoints.is_writing,
    )


def _profiler(
    options: RunOptions,
    start: RunStart,
    event_folder: Path | None,
    recorded: Mapping[str, Any] | None,
) -> ProfilerObserver | None:
    """What captures the steps that are asked for, in the folder of the event files."""
    if options.profile_steps is None:
        return None
    output = {} if recorded is None else recorded.get("output", {})
    is_asked_again = output.get("profile_steps") == options.profile_steps
    if is_asked_again and step_range(options.profile_steps)[0] < start.start_step:
        return None  # it began before the resume, which needs no flag repeated
    if not start.run_dir:
        raise InputError("profile_steps needs a run_dir, where the profile goes")
    first, last = step_range(options.profile_steps)
    if not start.start_step <= first < last <= start.total_steps:
        raise InputError(
            f"--profile-steps is {first}:{last}, but the run trains the steps {start.start_step}:"
            f"{start.total_steps} ({start.epochs} epochs of {start.steps_per_epoch}); name some of "
            "these, or set --epochs to more"
        )
    folder = event_folder or Path(start.run_dir) / TENSORBOARD_FOLDER_NAME
    return ProfilerObserver(folder.absolute(), first=first, last=last)
