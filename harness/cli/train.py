"""`harness train`: trains, evaluates and saves a network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import harness
from harness.base.checks import require_extra
from harness.base.errors import DivergenceError, InputError, LostWorkerError, printable
from harness.base.interrupt import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from harness.base.quiet import quiet_import
from harness.base.terminal import progress_line, table_of
from harness.base.timeline import Timeline
from harness.run.observers.run_files import REPORT_FILE_NAME, RESOLVED, read_config
from harness.run.run_folder import claim_run_folder
from harness.tools.experiment import TrainConfig, trainer_of
from harness.tools.recipe import applies, find
from harness.trainer.resuming import complete_note, completed_steps, is_begun
from harness.workers.membership import membership
from kernels.multi_hot.native.build import built_meanwhile


@contextmanager
def _failures_told() -> Iterator[None]:
    """Sends an InputError raised in the block to the other workers, which end with it as well."""
    try:
        yield
    except InputError as error:
        from harness.workers.cluster import cluster_of  # imports NumPy, which no help needs

        with suppress(InputError, LostWorkerError):
            cluster_of(os.environ).failed(error)
        raise


@_failures_told()
def train(
    config: TrainConfig,
    console: Console | None = None,
    *,
    given: Set[str] = frozenset(),
    timeline: Timeline | None = None,
) -> int:
    """Runs the command. An InputError comes before anything is written, a DivergenceError after all
    else. No recipe changes the settings that were `given`."""
    console, timeline = console or Console(), timeline or Timeline()
    timeline.mark("arguments")
    output = config.output
    worker = membership(os.environ)
    alone = worker.num_workers == 1  # otherwise the chief tells the others
    if alone and output.resume == "auto" and output.report == "off":  # a report may be missing
        assert output.run_dir is not None
        folder = Path(output.run_dir).absolute()
        settings = asdict(config)
        if (num_steps := completed_steps(folder, settings)) is not None:
            note = complete_note(folder, num_steps)
            console.print(note, soft_wrap=True, markup=False, highlight=False)
            return 0
    if output.report == "on":
        require_extra("report", "a report", "jinja2", "matplotlib")
    may_be_native = config.execution.implementation in ("auto", "native")
    with built_meanwhile() if may_be_native else nullcontext():
        with quiet_import():
            from harness.data.sources import load_configured
            from harness.data.vocabulary import FILE_NAME, Vocabulary
            from harness.trainer.trainer import Trainer  # noqa: F401 - not timed as the data
        timeline.mark("imports")
        # The settings of a run that is there already are known.
        place = Path(output.run_dir or "").absolute()
        goes_on = bool(output.resume) and is_begun(place)
        found, recipe = None, read_config(place)[RESOLVED].get("recipe") if goes_on else None
        if applies(config) and alone and not goes_on:
            if output.run_dir is not None:
                with ExitStack() as claims:  # a folder that is refused is told before the search
                    claim_run_folder(
                        output.run_dir, claims, resume=output.resume, overwrite=output.overwrite
                    )
            text = "trying candidates on held-out rows (--recipe tutorial takes the defaults)"
            with progress_line(console) as progress:
                found = find(config, given, started=lambda: console.print(text), progress=progress)
        elif applies(config) and not alone and worker.is_chief:
            console.print("note: several workers train by flags and defaults, without a recipe")
        if found is not None:
            console.print(str(found), soft_wrap=True, markup=False, highlight=False)
            config, recipe = found.config, {"name": "auto", "why": found.why}
        # What config.json records needs no search to repeat the run.
        config = replace(config, recipe="tutorial")
        timeline.mark("recipe")
        if found is None:
            with progress_line(console) as progress:
                data = load_configured(config.data, progress=progress)
        else:
            data = found.data
        words = place / FILE_NAME
        if goes_on and data.vocabulary is not None and words.is_file():
            # A recipe chose them with candidates, which a run that is resumed does not train again.
            thresholds = Vocabulary.load(words).thresholds
            data = replace(data, vocabulary=replace(data.vocabulary, thresholds=thresholds))
        timeline.mark("data")
        code = _train(config, data, console, timeline, recipe)
        if found is not None and found.advice is not None and code == 0:
            console.print(f"note: {found.advice}", soft_wrap=True, highlight=False)
        return code


def _train(
    config: TrainConfig,
    data: harness.Dataset,
    console: Console,
    timeline: Timeline,
    recipe: Any,
) -> int:
    from harness.trainer.callbacks import BestModel, EarlyStopping
    from harness.trainer.run import Asked

    output = config.output
    test = harness.Examples.of(data.test) if config.test == "on" else None
    validation = test if data.validation is None else harness.Examples.of(data.validation)
    if test is not None and data.validation is not None and data.vocabulary is not None:
        # The run chooses its thresholds by the validation rows, in place of a recipe's.
        data = replace(data, vocabulary=replace(data.vocabulary, thresholds=None))
    trainer = trainer_of(config, data, config.execution, epochs=config.epochs)
    # Without validation rows of its own a run has only the test rows, which may choose no epoch.
    callbacks: list[Any] = [BestModel()] if data.validation else []
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=config.early_stopping))
    asked = Asked(
        train=harness.Examples.of(data.train),
        validation=validation,
        test=test,
        epochs=config.epochs,
        callbacks=callbacks,
        options=replace(output, run_dir=output.run_dir or "auto"),
        config=asdict(config) | {RESOLVED: {"recipe": recipe}},
        vocabulary=data.vocabulary,
        console=console,
        timeline=timeline,
    )
    diverged = None
    try:
        trainer.run(asked)
    except DivergenceError as error:  # raised below, after everything is printed
        diverged = error
    except Terminated:  # its exit code is returned below
        pass
    outcome = trainer.last
    assert outcome is not None
    progress = outcome.progress  # None if the run was complete before
    stopped = progress is not None and progress.interrupted
    if outcome.start.run_dir:  # only the chief of several workers prints and writes
        if diverged is None and not stopped:
            folder = Path(outcome.start.run_dir)
            if output.report == "on" and not (folder / REPORT_FILE_NAME).exists():
                from harness.tools.report.page import write_report

                path = write_report(folder, trainer, data, config.data, data.vocabulary)
                console.out(printable(f"report written to {path}", one_line=True), highlight=False)
            timeline.mark("report")
        elif output.report == "on":
            console.print("note: the run did not come to its end, so no report was written")
        if output.timing and progress is not None:
            stages = timeline.stages | {"in all": sum(timeline.stages.values())}
            rows = ((stage, f"{seconds:.2f}") for stage, seconds in stages.items())
            console.print(table_of(("where the time went", "seconds"), rows))
    if diverged is not None:
        raise diverged
    if not stopped:
        return 0
    return EXIT_TERMINATED if outcome.terminated else EXIT_INTERRUPTED
