"""`harness train`: trains, evaluates and saves a network."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from harness.base.checks import require, require_count, require_extra, require_known
from harness.base.errors import DivergenceError, printable
from harness.base.interrupt import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from harness.base.quiet import quiet_import
from harness.base.timeline import Timeline
from harness.data.options import DataConfig
from harness.trainer.resuming import Resume, complete_note, completed_steps
from harness.trainer.settings import OnNan, Recorded, RunOptions, Settings, Telemetry
from harness.workers.membership import membership
from kernels.multi_hot.native.build import built_meanwhile

if TYPE_CHECKING:
    import keras

    from harness.data.sources import Dataset
    from harness.trainer.run import Outcome
    from harness.trainer.trainer import Trainer


def _resume_of(words: list[str]) -> Resume:
    if words not in ([], ["auto"]):
        raise ValueError(f"--resume is followed by {words[0]!r}; give auto, or nothing")
    return "auto" if words else True


_MOST_LAYERS = 1_000
"""The most hidden layers. A deeper network cannot be trained without shortcuts, and building it
takes minutes."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: a multi-hot layer, then fully connected ones. Defaults are the tutorial's."""

    hidden_units: tuple[int, ...] = (50, 50, 50)
    """Units of each hidden layer; the first is the multi-hot layer."""

    dropout: tuple[float, ...] = (0.3, 0.2, 0.0)
    """Dropout rate after each hidden layer; one number holds for all."""

    activation: str = "relu"
    """Activation of the hidden layers, by Keras's name."""

    table_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the multi-hot layer's table. `bfloat16` takes half of the memory; it needs a
    --table-optimizer of touched rows (sgd, adagrad, lazy_adam), which rounds its updates up or down
    by chance, so that small ones count on average."""

    def __post_init__(self) -> None:
        require(len(self.hidden_units) > 0, "--hidden-units is empty; name at least one layer")
        require_count("the number of --hidden-units", len(self.hidden_units), most=_MOST_LAYERS)
        for units in self.hidden_units:
            require_count("--hidden-units", units)
        if len(self.dropout) == 1:
            object.__setattr__(self, "dropout", self.dropout * len(self.hidden_units))
        require(
            len(self.dropout) == len(self.hidden_units),
            f"--dropout has {len(self.dropout)} rates for {len(self.hidden_units)} hidden layers "
            f"({' '.join(map(str, self.hidden_units))}); give one rate for each, or one for all",
        )
        for rate in self.dropout:
            require(0 <= rate < 1, f"--dropout holds {rate}; a rate is in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are updated."""

    optimizer: str = "adam"
    """Any Keras optimizer, by name."""

    learning_rate: float | None = None
    """The learning rate. Left out: the optimizer's own default."""

    learning_rate_schedule: Literal["constant", "cosine", "exponential", "linear"] = "constant"
    """How the learning rate falls over the steps of all epochs: `cosine` and `linear` to 0,
    `exponential` to 1 % of its start."""

    warmup: int = 0
    """Steps over which the learning rate first rises linearly."""

    clip_norm: float | None = None
    """Scale all gradients down together when their global norm exceeds this."""

    weight_decay: float | None = None
    """Shrink every weight by this share of itself, times the learning rate, in each step. Left out:
    the optimizer's own default, which is 0.004 for adamw and none for adam."""

    def __post_init__(self) -> None:
        require_count("--warmup", self.warmup, least=0)
        if self.weight_decay is not None:
            ok = math.isfinite(self.weight_decay) and self.weight_decay >= 0
            require(ok, f"--weight-decay is {self.weight_decay}; it must be 0 or above")
        for name, value in (
            ("--learning-rate", self.learning_rate),
            ("--clip-norm", self.clip_norm),
        ):
            if value is not None:
                ok = math.isfinite(value) and value > 0
                require(ok, f"{name} is {value}; it must be a number above 0")


_RESUME: tyro.constructors.PrimitiveConstructorSpec[Resume] = (
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[auto]",
        instance_from_str=_resume_of,
        is_instance=lambda value: value in (True, False, "auto"),
        str_from_instance=lambda value: ["auto"] if value == "auto" else [],
        choices=("auto",),
    )
)
"""The type of a flag that may have the value `auto`."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Recorded):
    """What a run writes and prints."""

    run_dir: str | None = None
    """Folder for everything the run writes. Left out: runs/ and the time of day."""

    overwrite: bool = False
    """Replace a run that is already in the run folder."""

    resume: Annotated[Resume, _RESUME] = False
    """Continue from the newest intact checkpoint in the run folder. Settings are the run's own,
    unless a flag says otherwise. A run that is complete stays as it is. `--resume auto` starts a
    run where there is none to continue."""

    summary: bool = False
    """Print the network's layers and parameters before training."""

    report: Literal["on", "off"] = "off"
    """Write report.html at the end of the run: learning curves, ROC, confusion, words, mistakes.
    Needs the extra `report`."""

    timing: bool = False
    """Print where the wall time went, from the start of the command on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folder("--run-dir", self.run_dir, resume=self.resume, overwrite=self.overwrite)
        require_known(self)


def check_folder(flag: str, folder: str | None, *, resume: Resume, overwrite: bool) -> None:
    """Checks that --resume and --overwrite fit together, and that --resume comes with a folder.

    Args:
        flag: the flag that names the folder.
        folder: the folder, if one is given.
        resume: whether to continue what is in the folder.
        overwrite: whether to replace it.
    """
    require(
        not (resume and overwrite),
        "--resume and --overwrite exclude each other: one keeps what is there, one replaces it",
    )
    require(not resume or folder is not None, f"--resume needs {flag}: the folder to go on with")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The network to train, its optimizer, and the rows to train on."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ExperimentConfig, OnNan):
    """Train a network on sets of token ids, evaluate it after each epoch, and save it."""

    execution: Settings = field(default_factory=Settings)
    output: OutputConfig = field(default_factory=OutputConfig)
    telemetry: Telemetry = field(default_factory=Telemetry)

    epochs: int = 2
    """Passes over the training rows."""

    early_stopping: int | None = None
    """Stop after so many epochs without a lower validation loss, and go back to the weights of the
    best one. Needs --validation-split, so that the test rows choose nothing."""

    test: Literal["on", "off"] = "on"
    """Whether the model that is saved is evaluated on the test rows. `off` while settings are
    searched, so that the test rows choose nothing; needs --validation-split."""

    class_weight: Literal["none", "balanced"] = "none"
    """Weights on the losses of training rows. `balanced`: rows / (classes * rows of the class), so
    that rare classes count as much as common ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("--epochs", self.epochs)
        require_known(self)
        require(
            self.test == "on" or (self.data.validation_split > 0 and self.output.report == "off"),
            "--test is off, so --validation-split must set rows apart to validate on, as in 0.1, "
            "and --report, which is about the test rows, must be off",
        )
        if self.early_stopping is not None:
            require_count("--early-stopping", self.early_stopping)
            require(
                self.data.validation_split > 0,
                "--early-stopping needs rows to validate on that are not the test rows; set "
                "--validation-split, as in 0.1",
            )


def train(
    config: TrainConfig, console: Console | None = None, *, timeline: Timeline | None = None
) -> int:
    """Runs the command; returns its exit code.

    Args:
        config: the settings.
        console: the console to print to; None is standard output.
        timeline: the stages passed so far, for --timing.

    Raises:
        InputError: when the settings do not fit the data, the devices or the run folder, or when
            another run uses the folder. Nothing has been written or removed then.
        DivergenceError: when the loss was not finite at the end, after all else has been written.
        OSError: when the disk is full, naming the file.
    """
    console, timeline = console or Console(), timeline or Timeline()
    timeline.mark("arguments")
    output = config.output
    alone = membership(os.environ).num_workers == 1  # otherwise the chief tells the others
    if alone and output.resume == "auto" and output.report == "off":  # a report may be missing
        assert output.run_dir is not None
        folder = Path(output.run_dir).absolute()
        if (num_steps := completed_steps(folder, asdict(config))) is not None:
            note = complete_note(folder, num_steps)
            console.print(note, soft_wrap=True, markup=False, highlight=False)
            return 0
    may_be_native = config.execution.implementation in ("auto", "native")
    with built_meanwhile() if may_be_native else nullcontext():
        return _train(config, console, timeline)


def _train(config: TrainConfig, console: Console, timeline: Timeline) -> int:
    output = config.output
    with quiet_import():
        import harness.trainer.trainer  # noqa: F401 - TensorFlow's import is no time of the devices'
        from harness.data.sources import load_configured
        from harness.run.observers.profile_report import print_profile_of_run
    timeline.mark("imports")
    if output.report == "on":
        require_extra("report", "a report", "jinja2", "matplotlib")
    data = load_configured(config.data)
    timeline.mark("data")
    trainer = trainer_of(
        config,
        data,
        config.execution,
        epochs=config.epochs,
        balanced=config.class_weight == "balanced",
    )
    options = {**vars(output), **vars(config.telemetry), **vars(config)}
    diverged = None
    try:
        trainer.fit(
            data.train,
            validation=data.validation or data.test,
            test=data.test if config.test == "on" else None,
            epochs=config.epochs,
            callbacks=_callbacks(config),
            run_dir=output.run_dir or "auto",
            resume=output.resume,
            overwrite=output.overwrite,
            console=console,
            summary=output.summary,
            config=asdict(config),
            vocabulary=data.vocabulary,
            timeline=timeline,
            **{option.name: options[option.name] for option in fields(RunOptions)},
        )
    except DivergenceError as error:  # raised below, after everything is printed
        diverged = error
    except Terminated:  # its exit code is returned below
        pass
    outcome = trainer.last
    assert outcome is not None
    if not outcome.start.run_dir:  # only the chief of several workers prints and writes
        if diverged is not None:
            raise diverged
        if outcome.terminated:
            return EXIT_TERMINATED
        stopped = outcome.progress is not None and outcome.progress.interrupted
        return EXIT_INTERRUPTED if stopped else 0
    if outcome.progress is None:  # the run was complete before
        _report(config, trainer, data, outcome, console)
        return 0
    if outcome.profiler is not None:
        print_profile_of_run(outcome.profiler, console, on_gpu=trainer.devices.device_type == "GPU")
    if diverged is None and not outcome.progress.interrupted:
        _report(config, trainer, data, outcome, console)
        timeline.mark("report")
    elif output.report == "on":
        console.print("note: the run did not come to its end, so no report was written")
    if output.timing:
        console.print(_timing(timeline))
    if diverged is not None:
        raise diverged
    if outcome.terminated:
        return EXIT_TERMINATED
    return EXIT_INTERRUPTED if outcome.progress.interrupted else 0


def trainer_of(
    config: ExperimentConfig,
    data: Dataset,
    execution: Settings,
    *,
    epochs: int,
    balanced: bool = False,
) -> Trainer:
    """Returns a trainer of the network that the settings describe, with balanced class weights if
    `balanced`."""
    with quiet_import():
        from harness.model.network import default_network
        from harness.program.optimizer import recipe_of
        from harness.task.task import Task
        from harness.trainer.trainer import Trainer

    asked = config.optimizer
    steps_per_epoch = -(-data.train.num_rows // execution.batch_size)
    optimizer = recipe_of(
        asked.optimizer,
        learning_rate=asked.learning_rate,
        clip_norm=asked.clip_norm,
        weight_decay=asked.weight_decay,
        schedule=asked.learning_rate_schedule,
        warmup=asked.warmup,
        num_steps=epochs * steps_per_epoch,
    )
    network = default_network(
        **vars(config.model),
        num_tokens=data.num_tokens,
        num_classes=data.num_classes,
        multi_label=data.is_multi_label,
        seed=execution.seed,
    )
    task = Task(class_weight="balanced" if balanced else None)
    return Trainer(network, task=task, optimizer=optimizer, **vars(execution))


def _report(
    config: TrainConfig, trainer: Trainer, data: Dataset, outcome: Outcome, console: Console
) -> None:
    """Writes the report, unless it is off or exists already."""
    from harness.run.observers.run_files import REPORT_FILE_NAME

    folder = Path(outcome.start.run_dir)
    if config.output.report == "on" and not (folder / REPORT_FILE_NAME).exists():
        from harness.tools.report.page import write_report

        path = write_report(folder, trainer, data, config.data, data.vocabulary)
        console.out(printable(f"report written to {path}", one_line=True), highlight=False)


def _callbacks(config: TrainConfig) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that the settings ask for, if there are rows that may choose an
    epoch."""
    from harness.trainer.callbacks import BestModel, EarlyStopping

    if config.data.validation_split == 0:
        return []
    callbacks: list[keras.callbacks.Callback] = [BestModel()]
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=config.early_stopping))
    return callbacks


def _timing(timeline: Timeline) -> Table:
    table = Table(box=SIMPLE, title="where the time went", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, seconds in timeline.stages.items():
        table.add_row(stage, f"{seconds:.2f}")
    table.add_row("in all", f"{sum(timeline.stages.values()):.2f}")
    return table
