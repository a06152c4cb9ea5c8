"""The settings of `harness train`, and the trainer that they describe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

import harness
from harness.base.checks import Checked, Number, Whole, require
from harness.base.quiet import quiet_import
from harness.data.options import DataConfig
from harness.model.options import ModelConfig
from harness.trainer.settings import Resume, RunOptions, Settings


def _resume_of(words: list[str]) -> Resume:
    if words not in ([], ["auto"]):
        raise ValueError(f"--resume is followed by {words[0]!r}; give auto, or nothing")
    return "auto" if words else True


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """How the weights are updated."""

    optimizer: str = "adam"
    """Any Keras optimizer, by name."""
    learning_rate: Annotated[float | None, Number(above=0)] = None
    """The learning rate. Left out: the optimizer's own default."""
    learning_rate_schedule: Literal["constant", "cosine", "exponential", "linear"] = "constant"
    """How the learning rate falls over the steps of all epochs: `cosine` and `linear` to 0,
    `exponential` to 1 % of its start."""
    warmup: Annotated[int, Whole(0)] = 0
    """Steps over which the learning rate first rises linearly."""
    clip_norm: Annotated[float | None, Number(above=0)] = None
    """Scale all gradients down together when their global norm exceeds this."""
    weight_decay: Annotated[float | None, Number(least=0)] = None
    """Shrink every weight by this share of itself, times the learning rate, in each step. Left out:
    the optimizer's own default, which is 0.004 for adamw and none for adam."""


# The type of a flag that may have the value `auto`, or none.
_RESUME = tyro.constructors.PrimitiveConstructorSpec[Resume](
    nargs=(0, 1),
    metavar="[auto]",
    instance_from_str=_resume_of,
    is_instance=lambda value: value in (True, False, "auto"),
    str_from_instance=lambda value: ["auto"] if value == "auto" else [],
    choices=("auto",),
)


@dataclass(frozen=True, kw_only=True)
class OutputConfig(RunOptions):
    """What a run writes and prints."""

    run_dir: str | None = None
    """Folder for everything the run writes. Left out: runs/ and the time of day."""
    resume: Annotated[Resume, _RESUME] = False
    """Continue from the newest intact checkpoint in the run folder. Settings are the run's own,
    unless a flag says otherwise. A run that is complete stays as it is. `--resume auto` starts a
    run where there is none to continue."""
    report: Literal["on", "off"] = "off"
    """Write report.html at the end of the run, as `harness report` does; needs the extra
    `report`."""
    timing: bool = False
    """Print where the wall time went, from the start of the command on."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Checked):
    """The network to train, its optimizer, and the rows to train on."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ExperimentConfig):
    """Train a network on sets of token ids, evaluate it after each epoch, and save it."""

    execution: Settings = field(default_factory=Settings)
    output: OutputConfig = field(default_factory=OutputConfig)
    recipe: Literal["auto", "tutorial"] = "auto"
    """Where no flag says otherwise: `auto` tries candidates on held-out train rows, and takes
    epochs, batch size, learning rate, hidden units, dropout and, for texts, the words and their
    weights from the best. `tutorial` takes what this help gives as defaults, as `auto` does for
    --data synthetic, imdb and .npz files, for --resume and for several workers."""
    epochs: Annotated[int, Whole()] = 2
    """Passes over the training rows."""
    early_stopping: Annotated[int | None, Whole()] = None
    """Stop after so many epochs without a lower validation loss, and go back to the weights of the
    best one. Needs --validation-split, so that the test rows choose nothing."""
    test: Literal["on", "off"] = "on"
    """Whether the model that is saved is evaluated on the test rows. `off` while settings are
    searched, so that the test rows choose nothing; needs --validation-split."""
    class_weight: Literal["none", "balanced"] = "none"
    """Weights on the losses of training rows. `balanced`: rows / (classes * rows of the class), so
    that rare classes count as much as common ones."""
    label_smoothing: Annotated[float, Number(least=0, below=1)] = 0.0
    """The share of each training row's label that goes to all classes alike, as in 0.1, so that the
    model becomes less sure of itself. Needs rows of one of three or more classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.test == "on" or (self.data.validation_split > 0 and self.output.report == "off"),
            "--test is off, so --validation-split must set rows apart to validate on, as in 0.1, "
            "and --report, which is about the test rows, must be off",
        )
        require(
            self.early_stopping is None or self.data.validation_split > 0,
            "--early-stopping needs rows to validate on that are not the test rows; set "
            "--validation-split, as in 0.1",
        )


def trainer_of(
    config: ExperimentConfig,
    data: harness.Dataset,
    execution: Settings,
    *,
    epochs: int,
    network: Any = None,
) -> harness.Trainer:
    """Returns a trainer of the network that the settings describe, or of another `network`."""
    with quiet_import():
        from harness.model.network import DefaultNetwork
        from harness.model.optimizers import optimizer_factory

    num_steps = epochs * execution.steps_per_epoch(data.train.num_rows)
    optimizer = optimizer_factory(**vars(config.optimizer), num_steps=num_steps)
    network = network or DefaultNetwork(
        **vars(config.model),
        num_tokens=data.num_tokens,
        num_classes=data.num_classes,
        multi_label=data.is_multi_label,
        seed=execution.seed,
    )
    of_train = config if isinstance(config, TrainConfig) else TrainConfig()
    task = harness.Task(
        class_weight="balanced" if of_train.class_weight == "balanced" else None,
        label_smoothing=of_train.label_smoothing,
        thresholds=None if data.vocabulary is None else data.vocabulary.thresholds,
    )
    return harness.Trainer(network, task=task, optimizer=optimizer, **vars(execution))
