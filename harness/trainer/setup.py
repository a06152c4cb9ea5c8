"""The setup that a trainer settles and builds from the first rows that it sees."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from harness.base.checks import check_batch
from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.batch import Columns
from harness.feed.feed import Feed, build_feed
from harness.feed.plan import Plan, evaluation_plan, prediction_plan
from harness.model import network
from harness.model.budget import Budget
from harness.model.optimizers import OptimizerFactory
from harness.model.variables import is_seed, variables_by_name
from harness.program.devices import Devices, be_deterministic, set_up_devices
from harness.program.model_programs import ModelPrograms
from harness.program.optimizer import kept_bytes
from harness.program.state import MODEL_PREFIX, NUMBERED
from harness.program.strategy import building, copies_of
from harness.run.records import Choice
from harness.task.measures import Quality, are_classes
from harness.task.outputs import AnyTask, GivenTask, settled
from harness.trainer.cadence import Cadence
from harness.trainer.choices import WITH_MODEL, Known, settings_before, settle
from harness.trainer.environment import hide_too_new_gpus, warn_of_gpus
from harness.trainer.loop import Rows
from harness.trainer.padding import require_masked
from harness.trainer.settings import Settings
from harness.trainer.table_choice import TablesAsked, kept_by_rows, plans_of
from harness.workers.cluster import ALONE, Cluster
from kernels.multi_hot import ROW_OPTIMIZERS, Implementation

_MAX_OUTPUTS = 2**24  # of one call of an evaluation, which a device keeps: 64 MB in float32
_TRIED_ROWS = 3  # by which a trial sees whether the rows of a batch depend on each other
_SMALL_BYTES = 2**26  # Limit of the rows of a prediction that are copied to the devices at once
_LAST_STEP = "/last_step"  # The slot of a table whose rows may lag behind
_OF_STEPS = (_LAST_STEP, "/gradient_accumulator")  # The slots that a frozen weight does not keep
_EVALUATION_STEPS = 20  # The steps of a call of an evaluation if nothing was trained


@dataclass(kw_only=True, eq=False)
class Setup:
    """Everything that training needs; nothing has been compiled or written."""

    settings: Settings
    devices: Devices
    model: keras.Model
    task: AnyTask
    programs: ModelPrograms
    choices: dict[str, Choice]  # The choice for every setting that may be `auto`, by name
    unique: frozenset[str]  # Names of the ragged inputs in which no row holds an id twice
    weighted: frozenset[str]  # Names of the ragged inputs whose ids have weights
    limits: dict[str, int]  # of each input's ids, or the number of its features
    feeds: list[tuple[Examples, Feed]] = field(default_factory=list)
    predicted: set[tuple[int, int]] = field(default_factory=set)
    """Numbers of rows and ids of the predictions so far."""
    parked: dict[str, np.ndarray] = field(default_factory=dict)
    """The optimizer's slots of frozen weights, by name; Keras's optimizers keep them too."""
    is_by_row: bool | None = None  # Whether an output depends on its row alone, once it was tried

    def rows_to_train(
        self,
        examples: Examples,
        *,
        epochs: int,
        by_step: bool = False,
        repeating: bool = False,
        shuffle: bool = True,
    ) -> Rows:
        """Returns labelled rows and a plan of their order; `by_step`, a call is one step."""
        check_batch(
            batch_size=self.settings.batch_size,
            rows=examples.num_rows,
            replicas=self.devices.num_replicas,
            workers=self.devices.cluster.num_workers,
        )
        examples = self.checked(examples)
        self.task.check_gradient(examples)
        plan = Plan(
            lengths=Columns.of(examples).lengths,
            batch_size=self.settings.batch_size,
            replicas=self.devices.num_shares,
            first_share=self.devices.first_share,
            steps_per_call=1 if by_step else int(self.choices["steps_per_dispatch"].name),
            seed=self.settings.seed if shuffle else None,
            epochs=epochs,
            in_blocks=self.choices["input"].name == "mapped",
            repeating=repeating,
        )
        return Rows(feed=self._feed(examples), plan=plan)

    def rows_to_evaluate(self, examples: Examples, *, by_step: bool = False) -> Rows:
        """Returns rows in their own order, with or without labels."""
        examples, replicas = self.checked(examples), self.devices.num_shares
        # No more rows than there are, rounded up so that every replica has a share.
        batch_size = min(self.settings.batch_size, examples.num_rows)
        batch_size = -(-batch_size // replicas) * replicas
        # The outputs of all steps of a call stay on the device until the call ends.
        choice = self.choices.get("steps_per_dispatch")
        steps = int(choice.name) if choice else _EVALUATION_STEPS
        steps = min(steps, max(1, _MAX_OUTPUTS // (batch_size * self.task.num_outputs)))
        plan = evaluation_plan(
            Columns.of(examples).lengths,
            batch_size=batch_size,
            replicas=replicas,
            first_share=self.devices.first_share,
            steps_per_call=1 if by_step else steps,
        )
        return Rows(feed=self._feed(examples), plan=plan)

    def rows_to_predict(self, examples: Examples, *, by_step: bool) -> Rows:
        """Returns rows like `rows_to_evaluate`; from the second size on, they share programs if
        the model allows it: a server predicts the rows of each request."""
        examples = self.checked(examples)
        columns = Columns.of(examples)
        lengths = columns.lengths
        self.predicted.add((examples.num_rows, int(lengths.sum())))
        may_share = self.is_by_row is not False and columns.num_bytes <= _SMALL_BYTES
        if len(self.predicted) > 1 and may_share:
            shares = {"replicas": self.devices.num_shares, "first_share": self.devices.first_share}
            feed = self._feed(examples, shares_programs=True)
            if self.is_by_row is None and examples.num_rows >= _TRIED_ROWS:
                self.is_by_row = self._is_by_row(feed, lengths[:, :_TRIED_ROWS], **shares)
            if self.is_by_row:
                plan = prediction_plan(lengths, batch_size=self.settings.batch_size, **shares)
                return Rows(feed=feed, plan=plan)
        return self.rows_to_evaluate(examples, by_step=by_step)

    def _is_by_row(self, feed: Feed, lengths: np.ndarray, **shares: int) -> bool | None:
        """Returns whether the outputs of a feed's first rows stay the same in a larger batch; None
        if they are all alike, which tells nothing."""
        size = -(-_TRIED_ROWS // shares["replicas"]) * shares["replicas"]
        alone = evaluation_plan(lengths, batch_size=size, steps_per_call=1, **shares)
        filled = prediction_plan(lengths, batch_size=4 * size, **shares)
        changing = [c for v in self.programs.state.others.values() for c in copies_of(v)]
        before = [copy.numpy() for copy in changing]
        outputs, beside = (self.programs.predict(feed, plan) for plan in (alone, filled))
        for copy, value in zip(changing, before, strict=True):  # such as random seeds
            copy.assign(value)
        if (outputs == outputs[:1]).all():
            return None
        largest = np.abs(outputs[np.isfinite(outputs)]).max(initial=1e-6)
        atol = largest * (2e-2 if network.computes_in_16_bits(self.model) else 1e-4)
        return np.allclose(outputs, beside, rtol=0, atol=atol, equal_nan=True)

    def measures(
        self, examples: Examples, thresholds: Sequence[float] | None = None
    ) -> Quality | None:
        """Returns measures by the task's or these thresholds; None if labels are no classes."""
        if not self.task.is_measured or not are_classes(examples):
            return None
        task = self.task
        return Quality(
            examples,
            kind=task.kind,
            num_classes=task.num_classes,
            thresholds=task.thresholds or thresholds,
        )

    def cadence(self, rows: Rows, *, by_step: bool = False, needs_state: bool = False) -> Cadence:
        """Returns the length of dispatches. With `needs_state`, something between two epochs needs
        the state; if not, a GPU may run several without the host."""
        fixed = by_step or self.settings.steps_per_dispatch != "auto"
        runs_on = (
            self.devices.device_type == "GPU"
            and self.devices.cluster.is_alone
            and self.choices["input"].name == "resident"
            and self.programs.reads_sums_alone
            and not (fixed or needs_state)
        )
        return Cadence(
            steps_per_call=rows.plan.steps_per_call,
            fixed=fixed,
            steps_per_epoch=rows.plan.steps_per_epoch if runs_on else None,
        )

    def checked(self, examples: Examples) -> Examples:
        """Returns the rows, without repeated ids in inputs in which the first rows had none."""
        limits = _limits(examples)
        if limits.keys() != self.limits.keys():
            raise InputError(
                f"{examples.name} has the inputs {sorted(limits)}, but the model was built for "
                f"{sorted(self.limits)}"
            )
        for name, limit in limits.items():
            ragged = isinstance(examples.inputs[name], RaggedSets)
            # A part of a vocabulary is fine; of dense features all are needed.
            if limit > self.limits[name] if ragged else limit != self.limits[name]:
                what = "ids below" if ragged else "features:"
                where = f"the input {name!r} of " if name else ""
                raise InputError(
                    f"{where}{examples.name} has {what} {limit}, but the model knows "
                    f"{self.limits[name]}; give rows of the vocabulary that it was trained with"
                )
            if ragged:
                by = f"the model {self.model.name!r}"
                network.require_weights(examples, name, wanted=name in self.weighted, by=by)
        # The programs were compiled on the promise that no row of these inputs repeats an id.
        changed = {
            name: sets.unique()
            for name, sets in examples.ragged.items()
            if name in self.unique and not sets.is_unique
        }
        return replace(examples, inputs={**examples.inputs, **changed}) if changed else examples

    def kept(self) -> dict[str, Any]:
        """Returns what another trainer needs besides the model to go on as this one would."""
        settings, named = asdict(self.settings), variables_by_name(self.model)
        chosen = {n: choice.value for n, choice in self.choices.items() if n in settings}
        if chosen.get("table_optimizer") != "dense":  # which the optimizer may not allow any more
            chosen.pop("table_optimizer", None)
        # The weights travel in the model itself.
        weights = {MODEL_PREFIX + name for name, v in named.items() if not is_seed(v)}
        slots = self.programs.state.slots_by_weight
        state = self.parked | self.programs.state.save() if "input" in self.choices else {}
        state = {slots.get(name, name): value for name, value in state.items()}
        return {
            "before": {
                **settings,
                **chosen,
                "device_type": self.devices.device_type,
                "unique": self.unique,
                "limits": self.limits,
            },
            "task": self.task,
            "names": list(named),
            "state": {name: value for name, value in state.items() if name not in weights},
        }

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Takes up the state that `kept` returned, for a copy of the model with its weights."""
        # Layers without a name of their own are named anew in each copy of a model.
        names = dict(zip(kept["names"], variables_by_name(self.model), strict=True))
        slots = self.programs.state.slots_by_weight
        state = {slots.get(n, n): value for n, value in self.programs.state.save().items()}
        missing = set(state)
        # Variables of the optimizer that no weight has, by their order: a learning rate that became
        # a schedule is one less before them.
        numbered = ([n for n in each if NUMBERED.fullmatch(n)] for each in (kept["state"], state))
        places = dict(
            zip(*(sorted(own, key=lambda n: (len(n), n)) for own in numbered), strict=False)
        )
        for name, value in kept["state"].items():
            # A weight's own entry is group/path, that of an optimizer's slot group/path/slot.
            group, _, rest = name.partition("/")
            path, _, slot = rest.rpartition("/")
            own = names.get(rest) or (f"{names[path]}/{slot}" if path in names else rest)
            own = slots.get(name) or places.get(name, f"{group}/{own}")
            if own in state:
                missing.discard(own)
                state[own] = value
            elif not (own.endswith(_OF_STEPS) or NUMBERED.fullmatch(own)):
                self.parked[own] = value
        for name in missing:  # a table that was frozen makes up for none of the steps since
            if name.endswith(_LAST_STEP):
                state[name] = np.full_like(state[name], state["optimizer/iteration"])
        numbers = {name: number for number, name in slots.items()}
        self.programs.state.restore({numbers.get(n, n): value for n, value in state.items()})

    def _feed(self, examples: Examples, *, shares_programs: bool = False) -> Feed:
        for known, feed in self.feeds:
            if known.is_same(examples):
                return feed
        kind = self.choices["input"].name if "input" in self.choices else "stream"
        kind, names = "resident" if shares_programs else kind, self.devices.names
        feed = build_feed(kind, examples, devices=names, shares_programs=shares_programs)
        # Two are kept, those to train and to validate on: a second fit finds its rows in place.
        self.feeds = [*self.feeds[-1:], (examples, feed)]
        return feed


def set_up(
    given: network.ModelFunction | keras.Model,
    task: GivenTask,
    optimizer: OptimizerFactory | keras.optimizers.Optimizer,
    settings: Settings,
    *parts: Examples,
    training: bool,
    before: Mapping[str, Any] | None = None,
    console: Console | None = None,
    cluster: Cluster = ALONE,
    strategy: tf.distribute.Strategy | None = None,
) -> Setup:
    """Sets up the devices, settles every `auto`, and builds the model and its programs.

    `parts` are the rows to train on, and those to evaluate on. `before` holds the settled settings
    of the run that is resumed and their `device_type`; after the copy of a trainer, also `unique`
    and `limits`. `console` gets warnings of GPUs that cannot be used, and shows what is measured.
    """
    hide_too_new_gpus()
    train = parts[0]
    if console is not None:
        warn_of_gpus(console)
    if settings.deterministic:
        be_deterministic()
    devices = set_up_devices(
        settings.replicas,
        batch_size=settings.batch_size if training else None,
        before=int(Settings.of(before).replicas) if before else None,
        all_reduce=settings.all_reduce,
        cluster=cluster,
        strategy=strategy,
    )
    cluster.require_same({"devices": [devices.device_type, len(devices.names)]})
    if training:  # before anything is measured for such batches
        replicas, workers = devices.num_replicas, cluster.num_workers
        rows, batch_size = train.num_rows, settings.batch_size
        check_batch(batch_size=batch_size, rows=rows, replicas=replicas, workers=workers)
    # Not before the devices: its variables would start TensorFlow on all of every GPU.
    made_optimizer = optimizer() if isinstance(optimizer, partial) else optimizer
    known = Known(
        settings=settings,
        devices=devices,
        train=train,
        resident_bytes=sum(Columns.of(part).num_bytes for part in parts),
        before=None if before is None else settings_before(before, devices.device_type),
        chosen={"replicas": Choice(name=str(devices.num_replicas), why=devices.why)},
        console=console,
    )
    # Before the model: a function builds its layers in the precision.
    known.chosen["precision"] = _settled("precision", known)
    # Tables that are updated by rows have no gradient, and no copy while programs compile.
    by_rows = training and settings.table_optimizer in ROW_OPTIMIZERS
    kept = kept_by_rows(settings.table_optimizer) if by_rows else kept_bytes(made_optimizer)
    budget = Budget(
        device="" if devices.device_type == "CPU" else devices.names[-1],
        device_free=devices.free_bytes,
        optimizer=kept,
        gradients=training and not by_rows,
        copies=0 if by_rows else len(devices.names),
        data_bytes=known.resident_bytes if settings.input == "resident" else 0,
    )
    model = network.build_model(
        given,
        train,
        dtype=known.chosen["precision"].name,
        device=devices.names[0],
        seed=settings.seed,
        budget=budget,
        scope=building(devices.strategy),
    )
    if strategy is None and len(devices.names) == 1:
        # Its variables are plain: its own `fit` need not compute without XLA, as under a strategy.
        model._distribute_strategy = None
    name_apart(model)
    # This may be a new model around given layers; its policy decides whether the loss is scaled.
    model.dtype_policy = getattr(given, "dtype_policy", known.chosen["precision"].name)
    known.model, known.left_bytes = model, budget.require_rest(model, devices=len(devices.names))
    if isinstance(given, keras.Model):
        known.chosen["precision"] = own_precision(model, settings)
    return _built(known, task, made_optimizer, parts, training, before or {})


def _settled_task(
    task: GivenTask, model: keras.Model, train: Examples, devices: Devices
) -> AnyTask:
    outputs = network.called(model.compute_output_spec, network.model_inputs(train), train)
    # Without labels, as for predictions, the outputs tell what is known of the task.
    _require_plain(model, judged=train.labels is not None)
    found = settled(task, outputs, getattr(model, "output_names", ()), train)
    found.check_outputs(outputs, f"the model {model.name!r}")
    found.check_devices(devices.num_shares)
    return found


def _require_plain(model: keras.Model, *, judged: bool) -> None:
    """Refuses a subclass with steps, losses or metrics of its own: programs call only `call`."""
    names = ["predict_step"]
    names += ["train_step", "test_step", "compute_loss", "compute_metrics"] if judged else []
    plain = {name: getattr(keras.Model, name) for name in names}
    own = [n for n in names if getattr(getattr(model, n), "__func__", None) is not plain[n]]
    if judged:
        own += [f"the metric {m.name}" for la in model._flatten_layers() for m in la._metrics]
    if own:
        raise InputError(
            f"the model {model.name!r} has {', '.join(own)} of its own, which a trainer ignores; "
            "give loss and metrics to harness.Task, add other losses by add_loss, or train the "
            "model by its own fit"
        )


def _built(
    known: Known,
    task: GivenTask,
    optimizer: keras.optimizers.Optimizer,
    parts: Sequence[Examples],
    training: bool,
    before: Mapping[str, Any],
) -> Setup:
    """Settles what depends on the model, and builds its programs."""
    settings, devices, model, train = known.settings, known.devices, known.model, known.train
    assert model is not None
    asked = TablesAsked(
        model=model,
        optimizer=optimizer,
        device_type=devices.device_type,
        num_devices=devices.num_shares,
        train=train,
        batch_size=settings.batch_size,
        task=_settled_task(task, model, train, devices),
        strategy=devices.strategy,
    )
    known.tables = asked
    for name in WITH_MODEL if training else ("implementation",):
        known.chosen[name] = _settled(name, known)
    why = devices.device_type if settings.all_reduce == "auto" else "asked for"
    known.chosen["all_reduce"] = Choice(name=devices.all_reduce, why=why)
    implementation = cast(Implementation, known.chosen["implementation"].name)
    tables = {}
    if training:
        tables = plans_of(asked, known.chosen["table_optimizer"].name, implementation)
    # A copy of a trainer keeps the promises that its programs were built on.
    unique = before.get("unique")
    if unique is None:
        unique = frozenset(
            name
            for name in train.ragged
            if all(part.ragged[name].is_unique for part in parts if name in part.ragged)
        )
    programs = ModelPrograms(
        model,
        asked.task,
        devices,
        optimizer,
        implementation=implementation,
        unique=unique,
        tables=tables,
    )
    setup = Setup(
        settings=settings,
        devices=devices,
        model=model,
        task=asked.task,
        programs=programs,
        choices=known.chosen,
        unique=unique,
        weighted=frozenset(n for n, sets in train.ragged.items() if sets.weights is not None),
        limits=before.get("limits") or model_limits(model, train),
    )
    if training:
        require_masked(programs, train, asked.task)
    return setup


def _settled(name: str, known: Known) -> Choice:
    """Returns a choice, which the chief makes for all workers, and each checks."""
    # What `auto` measures differs between machines, and all must run the same programs.
    cluster = known.devices.cluster
    choice = Choice(**cluster.from_chief(lambda: asdict(settle(name, known))))
    if not cluster.is_chief:
        chosen: dict[str, Any] = {name: choice.value}
        settle(name, replace(known, settings=replace(known.settings, **chosen)))
    return choice


def own_precision(model: keras.Model, settings: Settings) -> Choice:
    """Returns the precision of a model's layers; refuses another one asked for."""
    policies = {layer.dtype_policy.name for layer in model.layers if layer.weights}
    mixed = sorted(name for name in policies if name != "float32")
    name = mixed[0] if mixed else "float32"
    if settings.precision not in ("auto", name):
        raise InputError(
            f"--precision is {settings.precision}, but the layers of {model.name!r} were built in "
            f"{name}; leave it at auto, build the model under keras.config.set_dtype_policy("
            f"'{settings.precision}'), or give a function that builds it"
        )
    why = "the model's own"
    if name == "mixed_float16" and model.dtype_policy.name != name:
        why = f"some layers'; as in Keras, only the model's dtype_policy={name!r} scales the loss"
    return Choice(name=name, why=why)


def name_apart(model: keras.Model) -> None:
    """Gives layers and variables of one name, as two loaded models have, names of their own, by
    which a state is saved."""
    for parts, name in ((model.layers, "name"), (model.variables, "_path")):
        used = set[str]()
        for part in parts:
            while getattr(part, name) in used:
                setattr(part, name, f"{getattr(part, name)}_")
            used.add(getattr(part, name))


def _limits(examples: Examples) -> dict[str, int]:
    return {
        name: part.num_tokens if isinstance(part, RaggedSets) else part.shape[1]
        for name, part in examples.inputs.items()
    }


def model_limits(model: keras.Model, train: Examples) -> dict[str, int]:
    """Returns the limit of each input's ids: that of the model's layers, or else of the rows."""
    given, known = _limits(train), dict[str, int]()
    # Where several layers read an input, the one that knows the fewest ids decides.
    for layer in network.multi_hot_layers(model):
        names = network.input_names(layer)
        if not names and len(train.ragged) == 1:  # a subclassed model does not tell
            names = set(train.ragged)
        for name in names & train.ragged.keys():
            if given[name] > layer.num_tokens:
                raise InputError(
                    f"{train.name} has ids below {given[name]}, but the layer {layer.name!r} knows "
                    f"those below {layer.num_tokens}; give it num_tokens={given[name]}"
                )
            known[name] = min(known.get(name, layer.num_tokens), layer.num_tokens)
    return given | known
