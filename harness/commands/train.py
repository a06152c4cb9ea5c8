"""`harness train`: from settings to a trained, evaluated and saved network."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from harness.commands.divergence import divergence_message
from harness.commands.interrupt import EXIT_INTERRUPTED, Interrupt
from harness.commands.profile_steps import print_profile_of_run, profiler_of_run
from harness.commands.run_folder import (
    CHECKPOINT_FOLDER_NAME,
    MODEL_FILE_NAME,
    check_resumable,
    check_run_folder,
    prepare_run_folder,
)
from harness.commands.session import Session, build_session
from harness.commands.summarize import summarize
from harness.commands.tensorboard_folder import check_tensorboard_folder
from harness.config import TrainConfig
from harness.config.mapping import to_mapping
from harness.data.sources import Dataset
from harness.engine.compilation_cache import CompilationCache
from harness.errors import DivergenceError, InputError, RecompilationError
from harness.files import replacing
from harness.loop import train as run_loop
from harness.model.network import layer_infos, portable_copy
from harness.observers.background import BackgroundObserver
from harness.observers.console import ConsoleObserver
from harness.observers.jsonl import JsonlObserver
from harness.observers.summary import SummaryObserver
from harness.observers.tensorboard import TensorBoardObserver
from harness.pipeline.feed import Feed
from harness.pipeline.plan import Plan
from harness.records import Choice, Compilation, DatasetInfo, Observer, RunStart
from harness.telemetry import host
from harness.telemetry.observer import TelemetryObserver
from harness.timeline import Timeline


def train(
    config: TrainConfig,
    console: Console | None = None,
    *,
    dataset: Dataset | None = None,
    timeline: Timeline | None = None,
    is_first: bool = False,
) -> int:
    """Runs the command; returns its exit code.

    Args:
        config: what was asked for.
        console: where to print; None is standard output.
        dataset: that of `config`, where it is loaded already.
        timeline: with what has passed already, for --timing.
        is_first: whether TensorFlow has not been used in this process; else there is no compilation
            cache.

    Raises:
        InputError: when the settings do not fit the data, the devices or the run folder. Nothing
            has been written or removed then.
        RecompilationError: under --strict-xla.
        DivergenceError: when the loss was not finite at the end, after all else has been written.
        OSError: when the disk is full, naming the file.
    """
    console = console or Console()
    timeline = timeline or Timeline()
    # 1. What may be wrong with the user's input is found before anything is built.
    folder = check_run_folder(config.output)
    tensorboard_folder = check_tensorboard_folder(config.output, folder)
    before = check_resumable(folder, config) if config.output.resume else None
    # 2. The plan of the run, the network, and what drives it.
    cache = CompilationCache(
        _deciding_programs(config), off=_why_no_cache(config), is_first=is_first
    )
    session = build_session(
        config,
        checkpoint_dir=folder / CHECKPOINT_FOLDER_NAME,
        before=before,
        dataset=dataset,
        timeline=timeline,
        growing=config.output.profile_steps is None,
    )
    if config.compilation_cache == "on" and cache.choice.name == "off":
        raise InputError(
            f"--compilation-cache on cannot be had: {cache.choice.why}; with auto, the run "
            "compiles its programs anew where that is so"
        )
    network, plan, engine = session.network, session.plan, session.engine
    # 3. Where it starts from.
    start_step = 0
    if config.output.resume:
        start_step = engine.restore()
        _check_unfinished(start_step, config.epochs, plan)
    start = run_start(config, session, folder, start_step, cache)
    profiler = profiler_of_run(config.output, folder, start)
    prepare_run_folder(folder, clear=config.output.overwrite)
    if config.output.summary:
        network.probabilities.summary(line_length=80, print_fn=console.out)
    # 4. The run. Ctrl-C stops the training; what follows that is short, and comes to its end.
    listeners = _observers(tensorboard_folder, console)
    telemetry = TelemetryObserver(
        listeners, hz=config.telemetry.telemetry_hz, bus_ids=session.devices.pci_bus_ids
    )
    # Files and the terminal may be slow: the device gets its next work before they are told.
    aside = BackgroundObserver([telemetry, *listeners], session.background)
    observers: list[Observer] = [session.steps, aside]
    dispatches: Feed = session.dispatches(epochs=config.epochs, start_step=start_step)
    if profiler is not None:
        observers.insert(0, profiler)
        dispatches = profiler.marked(dispatches)
    with Interrupt() as interrupt, ExitStack() as closing:
        for observer in observers:
            closing.callback(observer.close)
        closing.enter_context(session.background)  # ends before they are closed
        for observer in observers:
            observer.on_start(start)
        timeline.mark("start of the run")
        progress = run_loop(
            dispatches,
            engine,
            observers,
            steps_per_epoch=plan.steps_per_epoch,
            start_step=start_step,
            should_stop=lambda: interrupt.requested,
            stop_at_nan=config.on_nan == "stop",
            on_late_compilation=lambda late: _on_late_compilation(late, config, plan, observers),
        )
        session.background.wait()
        use = telemetry.finish()
        _keep(cache, observers)
        timeline.mark("run")
        timeline.divide(
            {
                "compilation": sum(c.seconds for c in progress.compilations),
                "training": sum(w.seconds for w in progress.windows),
                "evaluation": sum(e.seconds for e in progress.evaluations),
            },
            rest="waiting for files, start of the feed",
        )
        if progress.divergence is None:
            with replacing(folder / MODEL_FILE_NAME) as beside:
                portable_copy(network).save(beside)
        timeline.mark("saving the model")
        summary = summarize(start, progress, use)
        for observer in observers:
            observer.on_end(summary)
        timeline.mark("end of the run")
    if profiler is not None:
        on_gpu = session.devices.device_type == "GPU"
        print_profile_of_run(profiler, progress, console, on_gpu=on_gpu)
    if config.output.timing:
        console.print(_timing(timeline))
    if progress.divergence is not None:
        raise DivergenceError(divergence_message(progress.divergence, start, progress))
    return EXIT_INTERRUPTED if progress.interrupted else 0


def _timing(timeline: Timeline) -> Table:
    table = Table(box=SIMPLE, title="where the time went", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage in timeline.stages:
        table.add_row(stage.name, f"{stage.seconds:.2f}")
    table.add_row("in all", f"{sum(stage.seconds for stage in timeline.stages):.2f}")
    return table


def _check_unfinished(start_step: int, epochs: int, plan: Plan) -> None:
    if start_step >= epochs * plan.steps_per_epoch:
        raise InputError(
            f"the run has done {start_step} steps, which is all of --epochs {epochs} "
            f"({plan.steps_per_epoch} steps each); set --epochs to more to go on with it"
        )


def run_start(
    config: TrainConfig,
    session: Session,
    folder: Path,
    start_step: int,
    cache: CompilationCache | None = None,
) -> RunStart:
    """What a run's observers are told of it before it trains; without a cache, it is off."""
    dataset, choices, plan = session.dataset, session.choices, session.plan
    return RunStart(
        run_dir=str(folder),
        config=to_mapping(config),
        dataset=DatasetInfo(
            name=dataset.name,
            rows=dataset.train.num_rows,
            test_rows=dataset.test.num_rows,
            num_tokens=dataset.num_tokens,
            num_classes=dataset.num_classes,
            nnz=dataset.train.nnz,
            unique=dataset.is_unique,
        ),
        devices=session.devices.descriptions,
        replicas=session.devices.num_replicas,
        precision=choices.precision,
        implementation=choices.implementation,
        steps_per_dispatch=choices.steps_per_dispatch,
        input=choices.input,
        compilation_cache=cache.choice if cache else Choice(name="off", why="not for this command"),
        cached_programs=cache.num_programs if cache else 0,
        batch_size=plan.batch_size,
        learning_rate=session.engine.learning_rate,
        num_parameters=session.network.probabilities.count_params(),
        layers=layer_infos(session.network.probabilities),
        steps_per_epoch=plan.steps_per_epoch,
        epochs=config.epochs,
        start_step=start_step,
        versions=host.versions(),
        host=host.host(),
    )


def _why_no_cache(config: TrainConfig) -> str | None:
    if config.compilation_cache == "off":
        return "asked for"
    if config.output.profile_steps is not None:
        return "its programs have lost the names that a profile shows"
    return None


def _deciding_programs(config: TrainConfig) -> dict[str, Any]:
    settings = to_mapping(config)
    deciding = {name: settings[name] for name in ("data", "model", "optimizer", "execution")}
    del deciding["execution"]["seed"], deciding["execution"]["strict_xla"]
    return deciding


def _keep(cache: CompilationCache, observers: list[Observer]) -> None:
    try:
        cache.keep()
    except OSError as error:
        for observer in observers:
            observer.on_note(f"what XLA has compiled is not kept for later runs: {error}")


def _observers(tensorboard_folder: Path | None, console: Console) -> list[Observer]:
    observers: list[Observer] = [SummaryObserver(), JsonlObserver()]
    if tensorboard_folder is not None:
        observers.append(TensorBoardObserver(tensorboard_folder))
    return [*observers, ConsoleObserver(console, tensorboard_dir=tensorboard_folder)]


def _on_late_compilation(
    late: Compilation, config: TrainConfig, plan: Plan, observers: list[Observer]
) -> None:
    message = (
        f"the training step was compiled again at step {late.step}, for batches of up to "
        f"{late.capacity} ids: one held more than the usual {plan.capacities.typical}"
    )
    if config.execution.strict_xla:
        raise RecompilationError(f"--strict-xla: {message}; leave it out to go on with a warning")
    for observer in observers:
        observer.on_warning(message)
