"""Everything that training changes, by name.

The variables are those of the run's strategy: each has a copy on every device, and a replica's
program reads and writes its own. All copies begin alike and get the same summed gradients, so they
stay alike. Only random seeds and the sums of metrics differ: a replica with its neighbour's seeds
would drop the same units.

No variable that a program uses is int32: TensorFlow keeps those in host memory, where a GPU's
program cannot reach them.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from harness.base.errors import InputError
from harness.model.layers import TableCall
from harness.model.variables import (
    as_dtype,
    blocks,
    change_by_blocks,
    digest_of,
    is_seed,
    portable,
    portable_dtype,
    variables_by_name,
)
from harness.program.devices import Devices
from harness.program.exchange import Gradients, TableGradient
from harness.program.optimizer import (
    LossScale,
    OptimizerPair,
    all_finite,
    attributes_of,
    copy_of,
    unscaled,
)
from harness.program.strategy import copies_of, mirrored, this_replica, with_copies
from harness.program.tables import Table, TablePlan, Tables
from harness.workers.cluster import Cluster

MODEL_PREFIX, _OPTIMIZER, _LOSS_SCALE = "model/", "optimizer/", "loss_scale/"
NUMBERED = re.compile(r"optimizer/\d+")  # Slots that are saved without the name of a weight
# Variables that every optimizer has.
_COMMON = ("iteration", "learning_rate")
# The difference between the seeds of neighbouring replicas: a prime, so that layers do not collide.
_STRIDE = 1_000_003


class ForwardResult(NamedTuple):
    outputs: Any
    changes: dict[str, tf.Tensor]  # Next values of variables that are not trained
    weights: dict[str, tf.Tensor]  # Values of the weights that the optimizer trains
    added_loss: tf.Tensor | None  # Sum of the losses that layers add; None without any
    calls: Sequence[TableCall] = ()  # By which gradients of tables follow


class _Scope(keras.StatelessScope):
    """A scope whose updates, like assignments to a variable, pass no gradient on."""

    unknown: keras.Variable | None = None  # An assigned variable that the mapping lacks

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if self.get_current_value(variable) is None:
            self.unknown = variable
        value = tf.convert_to_tensor(value)
        super().add_update(
            (variable, tf.stop_gradient(value) if value.dtype.is_floating else value)
        )


class State:
    """The state of a model in training: the model's own variables, with further copies where there
    are several devices, and a copy of the optimizer."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        devices: Devices,
        *,
        metrics: Sequence[keras.metrics.Metric] = (),
        tables: Mapping[str, TablePlan] = MappingProxyType({}),
        on_gpu: bool = False,
    ) -> None:
        self.model = model
        self.devices = devices
        named = variables_by_name(model)
        _require_on(devices, {f"the model's weight {n}": v.value for n, v in named.items()})
        held = {n: self._held(v) for n, v in named.items()}
        self.weights = {n: held[n] for n, v in named.items() if v.trainable and n not in tables}
        """The variables that the optimizer trains, by name."""
        self.others = {n: held[n] for n, v in named.items() if not v.trainable}
        """The variables that are not trained, by name; of these, the random seeds: `_seeds`."""
        self._seeds = [n for n, v in named.items() if is_seed(v)]
        with self.mirrored():
            self.optimizer = copy_of(optimizer)
            by_rows = [Table(name, plan, held[name]) for name, plan in tables.items()]
            self.tables = Tables(by_rows, self.optimizer)
            self._seen = {n: _as_keras(named[n], held[n]) for n in self.weights}
            self.optimizer.build([*self._seen.values()])
            self.optimizers = OptimizerPair(optimizer, self.optimizer)
            # The same condition as in Keras's `compile`.
            scaled = model.dtype_policy.name == "mixed_float16"
            self.loss_scale = LossScale() if scaled else None
            values = [[copies_of(v.value)[0] for v in metric.variables] for metric in metrics]
            self.sums = [[tf.Variable(value) for value in own] for own in values]
            """The variables of each metric's sums."""
        # Not the optimizer's property, which is divided where gradients are accumulated.
        self._iterations = self.optimizer._iterations.value
        self._all_finite = functools.partial(all_finite, by_one_kernel=on_gpu)
        for metric, sums in zip(metrics, self.sums, strict=True):
            _require_on(devices, {f"a sum of the metric {metric.name!r}": v for v in sums})
        self._shift_seeds(devices.first_share)

    def mirrored(self) -> Any:
        return mirrored(self.devices.strategy, self.devices.names)

    def _held(self, variable: keras.Variable) -> tf.Variable:
        return with_copies(variable.value, self.devices.strategy, self.devices.names)

    def _shift_seeds(self, replicas: int) -> None:
        """Makes the seeds those of replicas so many further on, from those of the first device."""
        for name in self._seeds:
            first, *others = copies_of(self.others[name])
            first.assign_add([replicas * _STRIDE, 0])
            for place, other in enumerate(others, 1):
                other.assign(tf.add(first, [place * _STRIDE, 0]))

    @property
    def is_outdated(self) -> bool:
        """Whether the model's variables, or which of them are trained, have changed since the state
        was made."""
        now = {name: v.trainable for name, v in variables_by_name(self.model).items()}
        trained = [*self.weights, *(table.name for table in self.tables.all)]
        return now != dict.fromkeys(trained, True) | dict.fromkeys(self.others, False)

    @property
    def metric_sums(self) -> dict[str, list[tf.Variable]]:
        """The sums that metrics keep over an epoch, by the names under which they are saved, those
        of all devices."""
        return {
            f"metrics/{place}/{index}": copies_of(variable)
            for place, variables in enumerate(self.sums)
            for index, variable in enumerate(variables)
        }

    @property
    def trained(self) -> dict[str, tf.Variable]:
        """The weights and the tables that are updated by rows, all of whose rows are up to date."""
        self.catch_up_all()
        return {**self.weights, **{table.name: table.variable for table in self.tables.all}}

    @property
    def variables(self) -> list[tf.Variable]:
        """Every copy of every variable."""
        every = [*self.named.values(), *(v for sums in self.sums for v in sums)]
        return [copy for variable in every for copy in copies_of(variable)]

    def call(self, inputs: Any, *, training: bool) -> ForwardResult:
        """Calls the model with this state's values; changes nothing except rows of tables that make
        up for missed steps."""
        model = self.model
        weights = {name: tf.convert_to_tensor(v) for name, v in self.weights.items()}
        values = {**self.others, **{table.name: table.variable for table in self.tables.all}}
        values = {name: tf.convert_to_tensor(v) for name, v in values.items()} | weights
        named = variables_by_name(model)
        mapping = [(v, values[name]) for name, v in named.items()]
        # The scope is the name in a profile.
        with _Scope(mapping, collect_losses=True) as scope, tf.name_scope("model"):
            given = {name: scope.get_current_value(v) for name, v in named.items()}
            # Keras too passes `training` only to a model that has such an argument.
            how = {"training": training} if model._call_has_training_arg else {}
            outputs = model(inputs, **how)
            losses = [tf.cast(loss, tf.float32) for loss in model.losses]
            after = {name: scope.get_current_value(v) for name, v in named.items()}
        self._require_own(scope.unknown)
        changes = {name: new for name, new in after.items() if new is not given[name]}
        if assigned := changes.keys() - self.others.keys():
            raise InputError(
                f"the model {model.name!r} assigns {', '.join(sorted(assigned))} when it is "
                "called, as SpectralNormalization does, but trains it too; leave out the layer "
                "that does so, or set trainable=False"
            )
        return ForwardResult(outputs, changes, weights, tf.add_n(losses) if losses else None)

    @property
    def slots_by_weight(self) -> dict[str, str]:
        """For slots that are saved by a number, as Adafactor's are: optimizer/weight/attribute by
        optimizer/number. An attribute lists a slot for each weight, in their order."""
        numbered = {name: v for name, v in self.named.items() if NUMBERED.fullmatch(name)}
        found = dict[str, str]()
        for attribute, slots in attributes_of(self.optimizer).items():
            if isinstance(slots, list) and len(slots) == len(self.weights):
                for name, slot in zip(self.weights, slots, strict=True):
                    numbers = (n for n, v in numbered.items() if v is getattr(slot, "value", None))
                    found |= dict.fromkeys(numbers, f"{_OPTIMIZER}{name}/{attribute}")
        return found

    def _require_own(self, unknown: keras.Variable | None) -> None:
        """Raises InputError if the model has assigned a variable that is none of its own."""
        does, make = "", "add_weight"
        if unknown is not None:
            does = f"assigns {unknown.path}, which is none of its variables"
            if is_seed(unknown):
                does, make = "draws with no seed of its own", "keras.random.SeedGenerator"
        elif (operation := self._assigned_beside()) is not None:
            does = f"assigns a tf.Variable, which is none of its variables, by {operation}"
        if does:
            raise InputError(
                f"the model {self.model.name!r} {does}, and a trainer keeps only its variables; "
                f"let the layer make one in its __init__, by {make}"
            )

    def _assigned_beside(self) -> str | None:
        """Returns the operation in the present graph that assigns a tf.Variable of others."""
        handles = [variable.handle for variable in self.variables]
        for operation in tf.compat.v1.get_default_graph().get_operations():
            if operation.type.startswith("Assign"):
                handle = operation.inputs[0]
                while tf.is_symbolic_tensor(handle):  # a loop gets it from the function around it
                    captured = (o for o, inner in handle.graph.captures if inner is handle)
                    handle = next(captured, None)
                if not any(handle is own for own in handles):
                    return str(operation.name)
        return None

    def gradients(
        self, tape: tf.GradientTape, loss: tf.Tensor, result: ForwardResult
    ) -> tuple[Gradients, tuple[str, ...]]:
        """Returns this replica's part of the gradients of a loss, and the names of the weights that
        it does not depend on. Those of weights that are only gathered from stay tf.IndexedSlices,
        which Keras's optimizers square before they add up repeated rows; `pack` makes them dense
        for several replicas."""
        outputs = [call.outputs for call in result.calls]
        of_weights, of_outputs = tape.gradient(loss, (result.weights, outputs))
        rows: dict[str, TableGradient] = {}
        products: dict[str, tuple[TableGradient, ...]] = {}
        touched = {}
        for call, dy in zip(result.calls, of_outputs, strict=True):
            if dy is None:
                continue
            gradient = TableGradient.of(call, dy)
            if call.touched is None:
                products[call.name] = (*products.get(call.name, ()), gradient)
            else:
                rows[call.name], touched[call.name] = gradient, call.touched
        weights = {}
        for name, gradient in of_weights.items():
            if isinstance(gradient, tf.IndexedSlices):
                gradient = _of_real_rows(gradient, self.weights[name].shape)
            if gradient is not None:
                weights[name] = gradient
        tables = [table.name for table in self.tables.all if table.name not in rows]
        unused = [*tables, *(n for n in of_weights if n not in weights and n not in products)]
        return Gradients(weights, rows, products, touched), tuple(unused)

    def dense(self, gradients: Gradients) -> dict[str, tf.Tensor]:
        """Returns gradients without the loss's scale, by name: zeros for a weight that the loss
        does not depend on, and of tables that are updated by rows those of the touched rows."""
        if self.loss_scale is not None:
            gradients = unscaled(gradients, tf.convert_to_tensor(self.loss_scale.scale))
        own = gradients.weights
        found = {n: own.get(n, tf.zeros(v.shape, v.dtype)) for n, v in self.weights.items()}
        found = {name: tf.convert_to_tensor(gradient) for name, gradient in found.items()}
        found |= {table.name: tf.zeros([1, 1]) for table in self.tables.all}
        return found | {of.table.name: of.gradients() for of in self.tables.rows_of(gradients)}

    def changed_weights(self, changes: Mapping[str, tf.Tensor]) -> list[str]:
        """Returns the names of what changes, except random seeds."""
        return sorted(changes.keys() - set(self._seeds))

    def assign(self, changes: Mapping[str, tf.Tensor]) -> None:
        for name, value in changes.items():
            self.others[name].assign(value)

    def apply(self, gradients: Gradients) -> None:
        """Updates weights and tables by gradients summed over all replicas; not if the loss is
        scaled and one is not finite. Like Keras's optimizers it leaves unused weights alone."""
        if not (self.weights or self.tables.all):
            return  # Keras too counts no step then
        with tf.name_scope("optimizer"), this_replica().updating():  # the name in a profile
            if self.loss_scale is None:
                self._update(gradients, finite=True)
                return
            scale = self.loss_scale
            every = [getattr(g, "values", g) for g in gradients.weights.values()]
            finite = self._all_finite([*every, *(row.dy for row in gradients.rows.values())])
            # Adafactor puts int32 numbers in the places of slots that it does not need.
            slots = [v.value for v in self.optimizer.variables if v.dtype != "int32"]
            updated = [*self.weights.values(), *slots]
            before = [tf.convert_to_tensor(variable) for variable in updated]
            self._update(unscaled(gradients, tf.convert_to_tensor(scale.scale)), finite=finite)
            # To branch, a GPU's program would wait for the host in every step.
            for variable, old in zip(updated, before, strict=True):
                variable.assign(tf.where(finite, variable, old))
            scale.update(finite)

    def _update(self, gradients: Gradients, *, finite: tf.Tensor | bool) -> None:
        weights = self.tables.apply(gradients, finite)
        if pairs := [(gradient, self._seen[name]) for name, gradient in weights.items()]:
            self.optimizer.apply_gradients(pairs)
        else:  # only tables are trained: then Keras counts no step by itself
            self._iterations.assign_add(1)

    def catch_up_all(self) -> None:
        """Lets all rows of tables make up for missed steps, on every device."""
        if self.tables.are_behind:
            for device, catch_up in zip(self.devices.names, self._catching_up, strict=True):
                with tf.device(device):
                    catch_up()
            self.tables.are_behind = False

    @functools.cached_property
    def _catching_up(self) -> list[Callable[[], None]]:
        found = []
        for place, device in enumerate(self.devices.names):
            with tf.device(device), self.devices.replica(place, list):
                made = tf.function(self.tables.catch_up_all, jit_compile=True, autograph=False)
                found.append(made.get_concrete_function())
        return found

    def finalize(self) -> None:
        """Gives the weights their averages, if the optimizer keeps such."""
        self.optimizer.finalize_variable_values([*self._seen.values()])

    def read_model(self) -> None:
        """Takes up what may have changed in the model: on other devices than the first, the copies
        of variables that are the model's own there."""
        self.catch_up_all()
        for name, variable in self.named.items():
            first, *others = copies_of(variable)
            if name.removeprefix(MODEL_PREFIX) not in self._seeds:
                for other in others:
                    other.assign(first)

    def save(self, *, copied: bool = True) -> dict[str, Any]:
        """Returns copies of all values by name, from which a resumed run repeats the uninterrupted
        one: rows of a table that lag behind are saved so, since others would be rounded in another
        order. Unless `copied`, these are tensors, where large ones are no copies: read those before
        the next step."""
        first = {name: portable(copies_of(v)[0].value()) for name, v in self.named.items()}
        return {name: value.numpy() for name, value in first.items()} if copied else first

    @property
    def kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The dtype and shape of each value of `save`."""
        return {n: (portable_dtype(v.dtype.name), tuple(v.shape)) for n, v in self.named.items()}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Assigns arrays that `save` returned, each read when its turn comes."""
        for name, variable in self.named.items():
            value = as_dtype(saved[name], variable.dtype)
            for copy in copies_of(variable):
                copy.assign(value)
        self._shift_seeds(0)
        self.tables.was_trained()  # some of the saved rows may lag behind

    def take_from_chief(self, cluster: Cluster) -> None:
        """Takes over the values of the chief's state. Only variables that differ cross the network,
        in pieces that are changed in their places. Raises InputError in all workers if one has
        variables of other names, dtypes or shapes."""
        cluster.require_same({"model or optimizer": self.kinds})
        self._shift_seeds(-self.devices.first_share)  # to those of the chief
        variables = list(self.named.values())
        codes = b"".join(digest_of(copies_of(v)[0]) for v in variables)
        every = cluster.gather(np.frombuffer(codes, np.int64))

        def of_chief(own: tf.Tensor) -> tf.Tensor:
            return as_dtype(cluster.array_of_chief(portable(own).numpy()), own.dtype)

        for variable, differs in zip(variables, (every != every[0]).any(axis=0), strict=True):
            first, *others = copies_of(variable)
            if differs:
                change_by_blocks(first, of_chief)
            for other in others:
                other.assign(first)
        self._shift_seeds(self.devices.first_share)
        self.tables.was_trained()  # some of the chief's rows may lag behind

    @functools.cached_property
    def is_finite(self) -> Callable[[], tf.Tensor]:
        """A function that tests all variables in one call, so that the host waits once."""
        numbers = [copies_of(v)[0] for v in self.named.values() if v.dtype.is_floating]

        def look() -> tf.Tensor:
            found = tf.constant(True)
            for part in (part for v in numbers for part in blocks(v)):
                # One after another, since all at once would take memory.
                with tf.control_dependencies([found]):
                    found = tf.logical_and(found, tf.reduce_all(tf.math.is_finite(part)))
            return found

        return tf.function(look, autograph=False).get_concrete_function()

    @functools.cached_property
    def named(self) -> dict[str, tf.Variable]:
        """All variables but the sums of metrics, by the names under which they are saved."""
        found = {MODEL_PREFIX + name: v for name, v in self.weights.items()}
        found |= {MODEL_PREFIX + table.name: table.variable for table in self.tables.all}
        for table in self.tables.all:
            found |= {f"{_OPTIMIZER}{table.name}/{n}": v for n, v in table.slots.items()}
        found |= {MODEL_PREFIX + name: v for name, v in self.others.items()}
        paths = {f"{seen.path.replace('/', '_')}_": name for name, seen in self._seen.items()}
        for place, variable in enumerate(self.optimizer.variables):
            # Keras names a slot by its weight, whose name may be the beginning of another's.
            of = max((p for p in paths if variable.name.startswith(p)), key=len, default="")
            slot = variable.name.removeprefix(of)
            # Other names count the objects that the process has made, or are not unique.
            own = variable.name if variable.name in _COMMON else str(place)
            found[_OPTIMIZER + (f"{paths[of]}/{slot}" if of else own)] = variable.value
        if self.loss_scale is not None:
            found |= {_LOSS_SCALE + n: v for n, v in self.loss_scale.named().items()}
        return found


def _as_keras(weight: keras.Variable, variable: tf.Variable) -> keras.Variable:
    """Returns the model's weight for an optimizer, or another with its name around its copies."""
    if weight.value is variable:
        return weight
    made = keras.Variable(variable, name=weight.name)
    made._path, made.constraint = weight.path, weight.constraint
    return made


def _of_real_rows(gradient: tf.IndexedSlices, shape: tf.TensorShape) -> tf.IndexedSlices:
    """Returns the gradient with zeros for padding's ids, which a norm would count."""
    is_row = gradient.indices < shape[0]
    mask = tf.reshape(is_row, [-1] + [1] * (gradient.values.shape.rank - 1))
    values = tf.where(mask, gradient.values, tf.zeros([], gradient.values.dtype))
    return tf.IndexedSlices(values, gradient.indices, tf.constant(shape.as_list()))


def _require_on(devices: Devices, named: Mapping[str, tf.Variable]) -> None:
    for name, variable in named.items():
        for copy, device in zip(copies_of(variable), devices.names, strict=False):
            if not copy.device.endswith(device.rpartition("/")[2]):
                raise InputError(
                    f"{name}, {copy.dtype.name}, lies on {copy.device}, but the model is to be "
                    f"trained on {device}; make the model there, not inside of tf.device, and "
                    "weights and sums int64 instead of int32, which a GPU cannot reach"
                )
