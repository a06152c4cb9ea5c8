"""A fit from its start to its end: the run's folder, who is told, the loop, and what is left."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from harness.background import Background, BackgroundObserver
from harness.callbacks import KerasCallbacks, with_batch_hooks
from harness.data import vocabulary
from harness.data.examples import Examples
from harness.data.vocabulary import Vocabulary
from harness.engine.checkpoints import Checkpoints
from harness.engine.inspection import Looks
from harness.errors import InputError
from harness.files import replacing
from harness.history import Progress
from harness.interrupt import Interrupt
from harness.loop import Rows, Run
from harness.loop import train as train_loop
from harness.model.network import layer_infos
from harness.observe import host
from harness.observe.console import ConsoleObserver
from harness.observe.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.observe.jsonl import JsonlObserver, kept_bytes
from harness.observe.profiler import ProfilerObserver
from harness.observe.run_files import (
    CHECKPOINT_FOLDER_NAME,
    MODEL_FILE_NAME,
    TENSORBOARD_FOLDER_NAME,
    SummaryObserver,
    read_fingerprint,
    read_settings,
    summarize,
)
from harness.observe.telemetry import MachineTelemetry
from harness.records import Choice, Compilation, DatasetInfo, Observer, RunStart, Summary
from harness.run_folder import clean_run_folder, is_complete
from harness.settings import RunOptions, precision_watch_every, step_range
from harness.setup import Setup
from harness.timeline import Timeline


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fit came to."""

    start: RunStart
    progress: Progress | None
    """None, as the summary, where all had been done before."""
    summary: Summary | None
    profiler: ProfilerObserver | None
    history: keras.callbacks.History


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a fit was asked for."""

    epochs: int
    """In all, counted from the first."""
    config: Mapping[str, Any]
    """Recorded."""
    options: RunOptions = field(default_factory=RunOptions)
    start_step: int = 0
    """Steps done before; of a run that is resumed its checkpoint says it."""
    callbacks: Sequence[keras.callbacks.Callback] = ()
    folder: Path | None = None
    """Claimed. None: nothing is written."""
    event_folder: Path | None = None
    resume: bool = False
    overwrite: bool = False
    vocabulary: Vocabulary | None = None
    """Recorded, where there is one."""
    console: Console | None = None
    summary: bool = False
    """Whether to print the model's layers."""


def fit(
    setup: Setup,
    train: Examples,
    validation: Examples | None,
    test: Examples | None,
    asked: Request,
    timeline: Timeline,
) -> Outcome:
    """Trains to the last epoch, and writes what a run leaves.

    Args:
        setup: what trains.
        train, validation, test: rows with labels.
        asked: everything else.
        timeline: to mark the stages on.

    Raises:
        InputError: when the rows do not fit, or the run in the folder cannot be resumed.
        OSError: when a file cannot be written, naming it.
    """
    console, folder, options = asked.console, asked.folder, asked.options
    for examples in filter(None, (train, validation, test)):
        setup.task.check_labels(examples)
    batched = with_batch_hooks(asked.callbacks)
    if batched and console is not None:
        console.print(f"note: {', '.join(batched)} wants every batch: dispatches are of one step")
    by_step = bool(batched)
    rows = setup.rows_to_train(train, epochs=asked.epochs, by_step=by_step)
    held_out = None if validation is None else setup.rows_to_evaluate(validation)
    tested = None if test is None or test is validation else setup.rows_to_evaluate(test)
    info = dataset_info(train, validation, test, num_classes=setup.task.num_classes)
    # Where it starts from.
    background = Background()
    checkpoints = None
    start_step = asked.start_step
    if folder is not None:
        checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER_NAME, setup.engine.states, background)
        if asked.resume:
            _check_same_data(folder, info)
            start_step = checkpoints.restore()
            kept_bytes(folder / METRICS_FILE_NAME, start_step)  # checks that they can be read
    start = run_start(setup, rows, info, asked, start_step=start_step)
    callbacks = KerasCallbacks(asked.callbacks, setup.model, setup.engine.states)
    if folder is not None and asked.resume and _has_ended(start, folder):
        if console is not None:
            console.print(
                f"{folder} holds a complete run of {start_step:,} steps, with its model and its "
                "summary: nothing is left to do. Set --epochs to more to train on.",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )
        setup.model.load_weights(folder / MODEL_FILE_NAME)  # the last checkpoint's, or a callback's
        setup.engine.read_model()
        history = callbacks.history
        return Outcome(start=start, progress=None, summary=None, profiler=None, history=history)
    profiler = _profiler(asked, start)
    if asked.summary and console is not None:
        setup.model.summary(line_length=80, print_fn=console.out)
    run = Run(
        engine=setup.engine,
        rows=rows,
        validation=held_out,
        cadence=setup.cadence(rows, by_step=by_step),
        looks=Looks(
            histograms_every=options.histograms,
            precision_every=int(start.choices["precision_watch"].value),
        ),
        checkpoints=checkpoints,
        start_step=start_step,
    )
    compiled: Sequence[Compilation] = ()
    if folder is not None:
        if asked.overwrite:  # not before it is sure that another run can take its place
            compiled = run.prepare(*next(run.dispatches(epochs=asked.epochs)))
            timeline.mark("compilation before the run")
        clean_run_folder(folder, asked.event_folder, clear=asked.overwrite)
        if asked.vocabulary is not None:
            asked.vocabulary.save(folder / vocabulary.FILE_NAME)
    return _conduct(
        run, setup, start, asked, callbacks, profiler, background, timeline, tested, compiled
    )


def _conduct(
    run: Run,
    setup: Setup,
    start: RunStart,
    asked: Request,
    callbacks: KerasCallbacks,
    profiler: ProfilerObserver | None,
    background: Background,
    timeline: Timeline,
    tested: Rows | None,
    compiled: Sequence[Compilation],
) -> Outcome:
    """Tells the observers, drives the loop, saves the model."""
    folder, console, events = asked.folder, asked.console, asked.event_folder
    # Ctrl-C stops the training; what follows is short, and comes to its end.
    listeners: list[Observer] = []
    if folder is not None:
        listeners += [SummaryObserver(), JsonlObserver()]
    if events is not None:
        from harness.observe.tensorboard import TensorBoardObserver  # takes 0.3 s

        listeners.append(TensorBoardObserver(events))
    if console is not None:
        listeners.append(ConsoleObserver(console, tensorboard_dir=events))
    # Files and the terminal may be slow: the device gets its next work before they are told.
    observers: list[Observer] = [callbacks, BackgroundObserver(listeners, background)]
    if profiler is not None:
        observers.insert(0, profiler)
    with Interrupt() as interrupt, ExitStack() as closing:
        for observer in observers:
            closing.callback(observer.close)
        telemetry = closing.enter_context(
            MachineTelemetry(hz=asked.options.telemetry_hz, bus_ids=setup.devices.pci_bus_ids)
        )
        closing.enter_context(background)  # ends before they are closed
        for observer in observers:
            observer.on_start(start)
        timeline.mark("start of the run")
        progress = train_loop(
            run.dispatches(epochs=start.epochs),
            run,
            observers,
            steps_per_epoch=start.steps_per_epoch,
            telemetry=telemetry,
            compiled=compiled,
            running={metric.name for metric in setup.task.stateful},
            start_step=start.start_step,
            should_stop=lambda: interrupt.requested,
            is_done=lambda: callbacks.wants_to_stop,
            stop_at_nan=asked.options.on_nan == "stop",
        )
        background.wait()
        timeline.mark("run")
        timeline.divide(
            {
                "compilation": sum(made.seconds for made in progress.compilations[len(compiled) :]),
                "training": progress.windows.train_seconds if progress.windows else 0.0,
                "evaluation": sum(e.evaluation.seconds for e in progress.epochs if e.evaluation),
            },
            rest="waiting for files, start of the feed",
        )
        callbacks.finish()
        setup.engine.finish()
        if progress.divergence is None and folder is not None:
            with replacing(folder / MODEL_FILE_NAME) as beside:
                setup.model.save(beside)
        timeline.mark("saving the model")
        test = None
        if tested is not None and progress.divergence is None:
            test, _ = setup.engine.evaluate(
                tested.feed, tested.plan, step=progress.step, epoch=start.epochs - 1
            )
            timeline.mark("test")
        summary = summarize(start, progress, test, wall_seconds=timeline.elapsed_seconds)
        for observer in observers:
            observer.on_end(summary)
        timeline.mark("end of the run")
    return Outcome(
        start=start,
        progress=progress,
        summary=summary,
        profiler=profiler,
        history=callbacks.history,
    )


def run_start(
    setup: Setup,
    rows: Rows,
    info: DatasetInfo,
    asked: Request,
    *,
    start_step: int = 0,
) -> RunStart:
    """What a run's observers are told of it before it trains."""
    order = ("replicas", "precision", "implementation", "input", "steps_per_dispatch")
    choices = {name: setup.choices[name] for name in order} | setup.choices
    watch, precision = asked.options.precision_watch, choices["precision"].name
    every = precision_watch_every(watch, precision)
    choices["precision_watch"] = Choice(
        name=str(every), why=precision if watch == "auto" else "asked for"
    )
    return RunStart(
        run_dir="" if asked.folder is None else str(asked.folder),
        config=asked.config,
        dataset=info,
        devices=setup.devices.descriptions,
        task=Choice(name=setup.task.kind, why=setup.task.why),
        metrics=setup.task.metric_names,
        choices=choices,
        batch_size=rows.plan.batch_size,
        learning_rate=setup.engine.learning_rate,
        num_parameters=setup.model.count_params(),
        layers=layer_infos(setup.model),
        steps_per_epoch=rows.plan.steps_per_epoch,
        epochs=asked.epochs,
        start_step=start_step,
        versions=host.versions(),
        host=host.host(),
    )


def dataset_info(train: Examples, *held_out: Examples | None, num_classes: int) -> DatasetInfo:
    """What a run records of its rows.

    Args:
        train: rows to train on.
        held_out: the others; the last of them are tested on.
        num_classes: of the task.
    """
    given: list[Examples] = []
    for part in held_out:
        if part is not None and all(part is not other for other in given):
            given.append(part)
    prints = [part.fingerprint for part in (train, *given)]
    return DatasetInfo(
        name=train.name,
        rows=train.num_rows,
        test_rows=given[-1].num_rows if given else 0,
        num_tokens=max((sets.num_tokens for sets in train.ragged.values()), default=0),
        num_classes=num_classes,
        nnz=train.nnz,
        unique=all(sets.is_unique for sets in train.ragged.values()),
        fingerprint=hashlib.sha256("".join(prints).encode()).hexdigest(),
    )


def _profiler(asked: Request, start: RunStart) -> ProfilerObserver | None:
    """What captures the steps that are asked for, in the folder of the event files."""
    if asked.options.profile_steps is None:
        return None
    if asked.folder is None:
        raise InputError("profile_steps needs a run_dir, where the profile goes")
    first, last = step_range(asked.options.profile_steps)
    if last > start.total_steps:
        raise InputError(
            f"--profile-steps is {first}:{last}, but the run ends after step {start.total_steps} "
            f"({start.epochs} epochs of {start.steps_per_epoch}); name earlier steps, or set "
            "--epochs to more"
        )
    if first < start.start_step:
        raise InputError(
            f"--profile-steps is {first}:{last}, but the run continues after step "
            f"{start.start_step}; name later steps"
        )
    folder = asked.event_folder or asked.folder / TENSORBOARD_FOLDER_NAME
    return ProfilerObserver(folder.absolute(), first=first, last=last)


def _check_same_data(folder: Path, info: DatasetInfo) -> None:
    trained_on = read_fingerprint(folder)
    if trained_on is None:
        raise InputError(
            f"{folder} was made by an earlier version, which kept no fingerprint of its data: "
            "whether this data is the same cannot be told; start a new run in another --run-dir"
        )
    if trained_on != info.fingerprint:
        raise InputError(
            f"{folder} cannot be resumed with other data: {info.name} has the fingerprint "
            f"{info.fingerprint[:12]}, the run was trained on {trained_on[:12]}; restore the "
            "data that it was trained on, or start a new run in another --run-dir"
        )


def _has_ended(start: RunStart, folder: Path) -> bool:
    if start.start_step > start.total_steps:
        raise InputError(
            f"the run has done {start.start_step} steps, which is more than --epochs "
            f"{start.epochs} ({start.steps_per_epoch} steps each); set --epochs to more to go on "
            "with it"
        )
    # A callback may have stopped the run before its last epoch; it goes on if more are asked for.
    as_before = read_settings(folder).get("epochs") == start.epochs
    done = start.start_step == start.total_steps or as_before
    return done and is_complete(folder, num_steps=start.start_step)
