"""What `train` and `bench` share: from settings and data to a network and what drives it."""

from dataclasses import dataclass
from pathlib import Path

from harness.background import Background
from harness.commands.resolve import Choices, resolve
from harness.config import ExecutionConfig, TrainConfig, check_batch, precision_watch_every
from harness.data.sources import Dataset, load_configured
from harness.engine.devices import Devices, set_up_devices
from harness.engine.engine import Engine
from harness.engine.inspection import Looks
from harness.model.network import Network, build_network
from harness.model.precision import needs_loss_scaling
from harness.pipeline.cadence import StepsPerDispatch
from harness.pipeline.feed import Feed, build_feed
from harness.pipeline.plan import Plan, evaluation_plan, training_plan
from harness.timeline import Timeline


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """Everything that training needs; nothing has been compiled or written."""

    dataset: Dataset
    devices: Devices
    choices: Choices
    plan: Plan
    network: Network
    engine: Engine
    background: Background
    """Where the engine's checkpoints are written, and observers may be told."""
    steps: StepsPerDispatch
    """Of a resident feed; it has to observe the run."""

    def dispatches(self, *, epochs: int, start_step: int = 0) -> Feed:
        """Every dispatch of the training, in order, with its batches."""
        return build_feed(
            self.choices.input.name,
            self.dataset.train,
            self.plan,
            devices=self.devices.names,
            implementation=self.choices.implementation.name,
            steps=self.steps,
            epochs=epochs,
            start_step=start_step,
        )


def build_session(
    config: TrainConfig,
    *,
    checkpoint_dir: Path,
    before: ExecutionConfig | None = None,
    dataset: Dataset | None = None,
    timeline: Timeline | None = None,
    growing: bool = False,
) -> Session:
    """Loads the data, sets up the devices, settles every `auto` and builds the network.

    Args:
        config: what was asked for.
        checkpoint_dir: where checkpoints are saved to and resumed from.
        before: of the run that is resumed, every `auto` resolved.
        dataset: that of `config`, where it is loaded already.
        timeline: to mark the stages on.
        growing: whether dispatches may get longer than estimated, where that is left to us. It
            would change what a benchmark or a profile of dispatches is about.

    Raises:
        InputError: when the settings do not fit the data or the devices.
    """
    # What may be wrong with the user's input is found before anything is built.
    timeline = timeline or Timeline()
    if dataset is None:
        dataset = load_configured(config.data)
        timeline.mark("data")
    replicas = config.execution.replicas
    devices = set_up_devices(before.replicas if before and replicas == "auto" else replicas)
    check_batch(
        batch_size=config.execution.batch_size,
        rows=dataset.train.num_rows,
        replicas=devices.num_replicas,
    )
    timeline.mark("devices")
    choices = resolve(config, dataset, devices, before=before)
    timeline.mark("settling what is auto")
    plan = training_plan(
        dataset.train.lengths,
        batch_size=config.execution.batch_size,
        replicas=devices.num_replicas,
        steps_per_dispatch=choices.num_steps,
        seed=config.execution.seed,
    )
    network = _network(config, choices, dataset, devices)
    background = Background()
    timeline.mark("network")
    session = Session(
        dataset=dataset,
        devices=devices,
        choices=choices,
        plan=plan,
        network=network,
        engine=_engine(config, choices, dataset, devices, network, checkpoint_dir, background),
        background=background,
        steps=StepsPerDispatch(
            choices.num_steps,
            # A stream's dispatches are prepared ahead, as planned.
            fixed=config.execution.steps_per_dispatch != "auto" or choices.input.name == "stream",
            most=plan.steps_per_epoch if growing else 0,
        ),
    )
    timeline.mark("engine")
    return session


def _network(config: TrainConfig, choices: Choices, dataset: Dataset, devices: Devices) -> Network:
    with devices.strategy.scope():
        return build_network(
            config.model,
            num_tokens=dataset.num_tokens,
            num_classes=dataset.num_classes,
            implementation=choices.implementation.name,
            unique=dataset.is_unique,
            dtype=choices.precision.name,
            seed=config.execution.seed,
            halves=_halves(config, choices, devices),
        )


def _halves(config: TrainConfig, choices: Choices, devices: Devices) -> bool:
    """Whether one replica is to train as two would, to the last bit.

    Only where it can be: replicas drop units of their own, and the kernels that can be told the
    order of a sum are `native`; 16-bit gradients would be rounded once more. Elsewhere it would
    cost some percent of the step for nothing.
    """
    told = choices.implementation.name == "native" and choices.precision.name == "float32"
    alone = devices.num_replicas == 1 and config.execution.batch_size % 2 == 0
    # XLA computes products with one column in an order that depends on the number of rows.
    wide = min(config.model.hidden_units) > 1
    return told and alone and wide and not any(config.model.dropout)


def _engine(
    config: TrainConfig,
    choices: Choices,
    dataset: Dataset,
    devices: Devices,
    network: Network,
    checkpoint_dir: Path,
    background: Background,
) -> Engine:
    plan = evaluation_plan(
        dataset.test.lengths,
        batch_size=config.execution.batch_size,
        replicas=devices.num_replicas,
        steps_per_dispatch=choices.num_steps,
    )
    return Engine(
        network,
        devices,
        config.optimizer,
        scaled=needs_loss_scaling(choices.precision.name),
        test_feed=build_feed(
            choices.input.name,
            dataset.test,
            plan,
            devices=devices.names,
            implementation=choices.implementation.name,
        ),
        checkpoint_dir=checkpoint_dir,
        background=background,
        looks=Looks(
            histograms_every=config.output.histograms,
            precision_every=precision_watch_every(
                config.output.precision_watch, choices.precision.name
            ),
        ),
    )
