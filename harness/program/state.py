"""Everything that training changes on one device, by name.

Each device has a copy of the weights, the optimizer's slots and the loss scale. All devices begin
alike and get the same summed gradients, so they stay alike. Each has random seeds of its own, or it
would drop the same units as its neighbours.

No variable that a program uses is int32: TensorFlow keeps those in host memory, where a GPU's
program cannot reach them.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from harness.base.errors import InputError
from harness.model.layers import TableCall
from harness.model.network import computes_in_16_bits
from harness.program.exchange import Gradients
from harness.program.finite import all_finite, blocks, change_by_blocks
from harness.program.loss_scale import LossScale
from harness.program.optimizer import copy_of, is_blind
from harness.program.packing import (
    Stored,
    as_dtype,
    held_together,
    is_seed,
    portable,
    portable_dtype,
    variables_by_name,
)
from harness.program.seeds import Seeds
from harness.program.small_gradients import by_fewer_kernels
from harness.program.tables import ProductGradient, RowGradient, Table, TablePlan, Tables
from harness.workers.cluster import Cluster

MODEL_PREFIX, _OPTIMIZER, _LOSS_SCALE = "model/", "optimizer/", "loss_scale/"
# Variables that every optimizer has.
_COMMON = ("iteration", "learning_rate")


class Called(NamedTuple):
    outputs: Any
    changes: dict[str, tf.Tensor]
    """Next values of non-trainable variables, seeds as in `Seeds.together`."""
    weights: list[dict[str, tf.Tensor]]  # Values of each of `State.trainable`, by name
    added_loss: tf.Tensor | None  # Sum of the losses that layers add; None without any
    calls: Sequence[TableCall] = ()  # By which gradients of tables follow


class _Scope(keras.StatelessScope):
    """A scope whose updates, like assignments to a variable, pass no gradient on."""

    unknown: keras.Variable | None = None  # An assigned variable that the mapping lacks

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        variable, value = update
        if id(variable) not in self.state_mapping:
            self.unknown = variable
        value = tf.convert_to_tensor(value)
        super().add_update(
            (variable, tf.stop_gradient(value) if value.dtype.is_floating else value)
        )


class State:
    """The state of a model in training on one device: the model's own variables on the first one
    (at `place` 0), except those that are held together, and copies elsewhere, with a copy of the
    optimizer. The device trains the share `share` of each batch."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        device: str,
        place: int,
        share: int = 0,
        metrics: Sequence[keras.metrics.Metric] = (),
        tables: Mapping[str, TablePlan] = MappingProxyType({}),
        for_gpu: bool = False,
        small: Collection[str] = (),
    ) -> None:
        self.device = device
        self.for_gpu = for_gpu
        self.model = model
        self.share = share
        self._place = place
        own = place == 0
        named = variables_by_name(model)
        if own:
            _require_on(device, ((f"the model's weight {n}", v.value) for n, v in named.items()))
        weights = {n: v for n, v in named.items() if v.trainable}
        seeds = {n: v for n, v in named.items() if is_seed(v)}
        others = {n: v for n, v in named.items() if n not in weights | seeds}
        with tf.device(device):
            self.optimizer = copy_of(optimizer)
            by_rows = [Table(n, plan, _held(weights.pop(n), own=own)) for n, plan in tables.items()]
            # The tables that are updated by rows, which are not in `trainable`.
            self.tables = Tables(by_rows, self.optimizer)
            constrained = any(v.constraint is not None for v in weights.values())
            pack = is_blind(self.optimizer) and not constrained and _is_plain(model)
            stack = for_gpu and computes_in_16_bits(model)
            together = held_together(weights, stack=stack, small=small) if pack else []
            names = {name for stored in together for name in stored.shapes}
            self._weights = [
                Stored.whole(n, _held(v, own=own)) for n, v in weights.items() if n not in names
            ]
            self._weights += together
            self._others = {name: _held(v, own=own) for name, v in others.items()}
            self.seeds = Seeds(seeds)
            # The optimizer sees the model's own variables, or others with their names.
            self._seen = [
                weights[name] if own and len(stored.shapes) == 1 else _alias(stored, weights[name])
                for stored in self._weights
                for name in [next(iter(stored.shapes))]
            ]
            if excluded := getattr(self.optimizer, "_exclude_from_weight_decay", None):
                key = self.optimizer._var_key
                pairs = zip(self._seen, weights.values(), strict=False)  # none is packed
                self.optimizer._exclude_from_weight_decay = {
                    key(seen) for seen, weight in pairs if key(weight) in excluded
                }
            self.optimizer.build(self._seen)
            # Not the optimizer's property, which is divided where gradients are accumulated.
            self._iterations = self.optimizer._iterations.value
            # A layer's policy decides: float16 gradients underflow unless the loss is scaled.
            scaled = any(layer.compute_dtype == "float16" for layer in model.layers)
            self.loss_scale = LossScale(for_gpu=for_gpu) if scaled else None
            # The variables of each metric's sums.
            self.sums = [[tf.Variable(v.value) for v in metric.variables] for metric in metrics]
        for metric, sums in zip(metrics, self.sums, strict=True):
            _require_on(device, ((f"a sum of the metric {metric.name!r}", v) for v in sums))
        self.seeds.move(share)

    @property
    def is_outdated(self) -> bool:
        """Whether the model's trainable variables have changed since the state was made."""
        named = variables_by_name(self.model)
        held = {name for stored in [*self._weights, *self._tables()] for name in stored.shapes}
        return held != {name for name, variable in named.items() if variable.trainable}

    @property
    def trainable(self) -> list[tf.Variable]:
        """The weights but for tables updated by rows."""
        return [stored.variable for stored in self._weights]

    @property
    def weights(self) -> list[tf.Variable]:
        """The variables of `trainable` and of the tables, all of whose rows are up to date."""
        self.tables.settle()
        return [*self.trainable, *(table.variable for table in self.tables.all)]

    @property
    def variables(self) -> list[tf.Variable]:
        sums = [variable for metric in self.sums for variable in metric]
        return [*(stored.variable for stored in self._stored()), *sums]

    @contextlib.contextmanager
    def in_loop(self, num_steps: int) -> Iterator[Callable[[tf.Tensor], None]]:
        """Surrounds a compiled loop of training steps; yields the function that each step calls
        first with its number, from which a GPU derives seeds and counts by fewer kernels."""
        if not self.for_gpu:
            yield lambda step: None
            return
        first = tf.convert_to_tensor(self._iterations)
        counts = self.loss_scale is None and bool(self._weights or self.tables.all)

        def begin(step: tf.Tensor) -> None:
            self.seeds.step = step
            if counts:
                # From the number of the next step, which XLA then computes in the same kernel.
                self._iterations.assign(first + tf.cast(step + 1, first.dtype) - 1)

        with self.seeds.in_loop(num_steps):
            yield begin

    def call(self, model: keras.Model, inputs: Any, *, training: bool) -> Called:
        """Calls a model, the state's own or another with variables of the same names, with this
        state's values; changes nothing except rows of tables that make up for missed steps."""
        values: dict[str, tf.Tensor] = {**self._others, **self.seeds.values()}
        values |= {table.name: table.variable for table in self.tables.all}
        weights = [s.split(tf.convert_to_tensor(s.variable)) for s in self._weights]
        for held in weights:
            values |= held
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
        does, make = "", "add_weight"
        if (unknown := scope.unknown) is not None:
            does = f"assigns {unknown.path}, which is none of its variables"
            if is_seed(unknown):
                does, make = "draws with no seed of its own", "keras.random.SeedGenerator"
        elif (operation := self._assigned_beside()) is not None:
            does = f"assigns a tf.Variable, which is none of its variables, by {operation}"
        if does:
            raise InputError(
                f"the model {model.name!r} {does}, and a trainer keeps only a model's variables; "
                f"let the layer make one in its __init__, by {make}"
            )
        changes = {name: new for name, new in after.items() if new is not given[name]}
        changes = self.seeds.together(changes, given, after)
        if assigned := changes.keys() - self._others.keys() - {Seeds.NAME}:
            raise InputError(
                f"the model {model.name!r} assigns {', '.join(sorted(assigned))} when it is "
                "called, as SpectralNormalization does, but trains it too; leave out the layer "
                "that does so, or set trainable=False"
            )
        return Called(outputs, changes, weights, tf.add_n(losses) if losses else None)

    def _assigned_beside(self) -> str | None:
        """Returns the operation in the present graph that assigns a tf.Variable of others."""
        own = {id(variable.handle) for variable in self.variables}
        for operation in tf.compat.v1.get_default_graph().get_operations():
            if operation.type.startswith("Assign"):
                handle = operation.inputs[0]
                while tf.is_symbolic_tensor(handle):  # a loop gets it from the function around it
                    captured = (o for o, inner in handle.graph.captures if inner is handle)
                    handle = next(captured, None)
                if id(handle) not in own:
                    return str(operation.name)
        return None

    def gradients(
        self, tape: tf.GradientTape, loss: tf.Tensor, called: Called, *, sparse: bool = False
    ) -> Gradients:
        """Returns the gradients of a loss: zeros for a weight that it does not depend on. With
        `sparse`, the gradients of weights that are only gathered from stay tf.IndexedSlices, which
        Keras's optimizers square before they add up repeated rows."""
        outputs = [call.outputs for call in called.calls]
        found, of_outputs = tape.gradient(loss, (called.weights, outputs))
        tables = {table.name: table for table in self.tables.all}
        places = {name: i for i, stored in enumerate(self._weights) for name in stored.shapes}
        rows, products = [], []
        for call, dy in zip(called.calls, of_outputs, strict=True):
            if dy is None:
                continue
            name, dy = call.layer.kernel.path, tf.cast(dy, tf.float32)
            if call.touched is None:
                products.append(ProductGradient(places[name], call, dy))
            else:
                rows.append(RowGradient(tables.pop(name), call, call.touched, dy))
        of_products = {product.place for product in products}
        unused = [*tables]
        weights: list[tf.Tensor | tf.IndexedSlices | None] = []
        for place, (stored, held, own) in enumerate(
            zip(self._weights, called.weights, found, strict=True)
        ):
            missing = [name for name, gradient in own.items() if gradient is None]
            first = next(iter(own.values()))
            if missing and place in of_products:  # the products tell it all
                weights.append(None)
            elif sparse and isinstance(first, tf.IndexedSlices):  # never of several weights
                weights.append(_of_real_rows(first, stored.variable.shape))
            else:
                whole = own | {name: tf.zeros_like(held[name]) for name in missing}
                weights.append(stored.join(by_fewer_kernels(whole) if self.for_gpu else whole))
                unused += missing
        return Gradients(weights, rows, products, tuple(unused))

    def assign(self, changes: Mapping[str, tf.Tensor]) -> None:
        held = dict(self._others)
        for seeds in self.seeds.stored:
            held[Seeds.NAME] = seeds.variable
        for name, value in changes.items():
            held[name].assign(value)

    def apply(self, gradients: Gradients) -> None:
        """Updates `trainable` and the tables by gradients summed over all devices; not if the loss
        is scaled and one is not finite. Like Keras's optimizers it leaves unused weights alone."""
        weights, rows, unused = gradients.weights, gradients.rows, set(gradients.unused)
        if not (self._weights or self.tables.all):
            return  # Keras too counts no step then
        iterations = self._iterations

        def apply_dense(gradients: Sequence[tf.Tensor]) -> None:
            pairs = [
                (gradient, seen)
                for gradient, seen, stored in zip(gradients, self._seen, self._weights, strict=True)
                if not stored.shapes.keys() <= unused
            ]
            if pairs:
                self.optimizer.apply_gradients(pairs)
            else:  # only tables are trained: then Keras counts no step by itself
                iterations.assign_add(1)

        with tf.name_scope("optimizer"):  # the name in a profile
            if self.loss_scale is None:
                apply_dense(self.tables.apply(weights, rows, True))
                return

            def update(unscaled: Sequence[tf.Tensor], counts: tf.Tensor) -> None:
                dense, dys = unscaled[: len(weights)], unscaled[len(weights) :]
                own = [row._replace(dy=dy) for row, dy in zip(rows, dys, strict=True)]
                dense = self.tables.apply(dense, own, counts)
                # Subtract beforehand the 1 that a skipped update will add: on a GPU one kernel then
                # counts and computes what follows from the count, as without a scale.
                iterations.assign_sub(tf.cast(~counts, iterations.dtype))
                apply_dense(dense)

            # Adafactor puts int32 numbers in the places of slots that it does not need.
            slots = [v.value for v in self.optimizer.variables if v.dtype != "int32"]
            updated = [*self.trainable, *(slot for slot in slots if slot is not iterations)]
            self.loss_scale.apply([*weights, *(row.dy for row in rows)], update, updated)

    def finalize(self) -> None:
        self.optimizer.finalize_variable_values(self._seen)

    def by_name(self, values: Sequence[tf.Tensor | tf.Variable]) -> dict[str, np.ndarray]:
        held = zip([*self._weights, *self._tables()], values, strict=True)
        return {
            n: part for stored, value in held for n, part in stored.split(value.numpy()).items()
        }

    def write_to_model(self) -> None:
        """Copies to the model the values of the variables that the first state does not share."""
        self.tables.settle()
        named = variables_by_name(self.model)
        unshared = [stored for stored in self._weights if len(stored.shapes) > 1]
        for stored in [*unshared, *self.seeds.stored]:
            for name, value in stored.split(stored.variable).items():
                named[name].value.assign(value)

    def read_from_model(self, first: "State") -> None:
        self.tables.settle()  # as the first state's, which the model has
        named = {name: v.value for name, v in variables_by_name(self.model).items()}
        others = [Stored.whole(name, variable) for name, variable in self._others.items()]
        for stored in [*self._weights, *self._tables(), *others]:
            if stored.variable is not named[next(iter(stored.shapes))]:  # the model's own
                stored.variable.assign(stored.join(named))
        for stored in self.seeds.stored if self is first else ():
            stored.variable.assign(stored.join(named))
        for own, theirs in zip(self.optimizer.variables, first.optimizer.variables, strict=True):
            if own is not theirs:
                own.assign(theirs.value)

    @functools.cached_property
    def is_finite(self) -> Callable[[], tf.Tensor]:
        """A function that tests all variables in one call, so that the host waits once."""
        numbers = [v for v in self.variables if v.dtype.is_floating]

        def look() -> tf.Tensor:
            found = tf.constant(True)
            parts = (part for v in numbers for part in blocks(v))
            while True:  # one after another, since all at once would take memory
                with tf.control_dependencies([found]):
                    if (part := next(parts, None)) is None:
                        return found
                    found = tf.logical_and(found, all_finite([part]))

        return tf.function(look, autograph=False).get_concrete_function()

    def save(self, *, copied: bool = True) -> dict[str, Any]:
        """Returns copies of all values by name, from which a resumed run repeats the uninterrupted
        one: rows of a table that lag behind are saved so, since settled ones would be rounded in
        another order. Unless `copied`, these are tensors, where large ones are no copies: read
        those before the next step. Each variable is copied as a whole, since the host waits for
        each copy."""
        found: dict[str, Any] = {}
        for stored in self._stored():
            value = portable(tf.convert_to_tensor(stored.variable))
            found |= stored.split(value.numpy() if copied else value)
        return found

    @property
    def kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {
            name: (portable_dtype(stored.variable.dtype.name), shape)
            for stored in self._stored()
            for name, shape in stored.shapes.items()
        }

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Assigns arrays that `save` returned, each read when its turn comes."""
        for stored in self._stored():
            stored.variable.assign(as_dtype(stored.join(saved), stored.variable.dtype))
        self.seeds.move(self.share)  # from those of the first
        self.tables.was_trained()  # some of the saved rows may lag behind

    def take_from_chief(self, cluster: Cluster) -> None:
        """Takes over the values of the chief's state on the device of the same place. Only
        variables that differ cross the network, in pieces that are changed in their places. Raises
        InputError in all workers if one has variables of other names, dtypes or shapes."""
        cluster.require_same({"model or optimizer": self.kinds})
        away = self.share - self._place
        self.seeds.move(-away)  # to those of the chief
        variables = [stored.variable for stored in self._stored()]
        codes = b"".join(map(_digest, variables))
        every = cluster.gather(np.frombuffer(codes, np.int64))

        def of_chief(own: tf.Tensor) -> tf.Tensor:
            return as_dtype(cluster.array_of_chief(portable(own).numpy()), own.dtype)

        for variable, differs in zip(variables, (every != every[0]).any(axis=0), strict=True):
            if differs:
                change_by_blocks(variable, of_chief)
        self.seeds.move(away)
        self.tables.was_trained()  # some of the chief's rows may lag behind

    def _tables(self) -> list[Stored]:
        return [Stored.whole(table.name, table.variable) for table in self.tables.all]

    def _stored(self) -> Iterator[Stored]:
        for stored in [*self._weights, *self._tables()]:
            yield stored.like(stored.variable, MODEL_PREFIX + "{}")
        for table in self.tables.all:
            for name, variable in table.slots.items():
                yield Stored.whole(f"{_OPTIMIZER}{table.name}/{name}", variable)
        for name, variable in self._others.items():
            yield Stored.whole(MODEL_PREFIX + name, variable)
        for stored in self.seeds.stored:
            yield stored.like(stored.variable, MODEL_PREFIX + "{}")
        paths = [f"{seen.path.replace('/', '_')}_" for seen in self._seen]
        named = list(zip(paths, self._weights, strict=True))
        for place, variable in enumerate(self.optimizer.variables):
            # Keras names a slot by its weight, whose name may be the beginning of another's.
            of = [(n, held) for n, held in named if variable.name.startswith(n)]
            if of:
                name, held = max(of, key=lambda pair: len(pair[0]))
                slot = variable.name.removeprefix(name)
                yield held.like(variable.value, f"{_OPTIMIZER}{{}}/{slot}")
            else:
                # Other names count the objects that the process has made, or are not unique.
                name = variable.name if variable.name in _COMMON else str(place)
                yield Stored.whole(_OPTIMIZER + name, variable.value)
        for name, variable in self.loss_scale.named().items() if self.loss_scale else ():
            yield Stored.whole(_LOSS_SCALE + name, variable)


def _digest(variable: tf.Variable) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for block in blocks(variable):
        digest.update(portable(block).numpy().tobytes())
    return digest.digest()


def _is_plain(model: keras.Model) -> bool:
    """Whether no layer can gather from a weight, whose gradient is tf.IndexedSlices then."""
    special = keras.layers.Embedding, keras.layers.Lambda
    return all(
        type(layer).__module__.partition(".")[0] in ("keras", "harness")
        and not isinstance(layer, special)
        for layer in model._flatten_layers()
    )


def _of_real_rows(gradient: tf.IndexedSlices, shape: tf.TensorShape) -> tf.IndexedSlices:
    """Returns the gradient with zeros for padding's ids, which a norm would count."""
    is_row = gradient.indices < shape[0]
    mask = tf.reshape(is_row, [-1] + [1] * (gradient.values.shape.rank - 1))
    values = tf.where(mask, gradient.values, tf.zeros([], gradient.values.dtype))
    return tf.IndexedSlices(values, gradient.indices, tf.constant(shape.as_list()))


def _require_on(device: str, named: Iterable[tuple[str, tf.Variable]]) -> None:
    for name, value in named:
        if not value.device.endswith(device.rpartition("/")[2]):
            raise InputError(
                f"{name}, {value.dtype.name}, lies on {value.device}, but the model is to be "
                f"trained on {device}; make the model there, not inside of tf.device, and weights "
                "and sums int64 instead of int32, which a GPU cannot reach"
            )


def _held(variable: keras.Variable, *, own: bool) -> tf.Variable:
    """Returns the model's own variable, or a copy on the current device with the same name."""
    value = variable.value
    if own:
        return value
    return tf.Variable(value, trainable=variable.trainable, name=value.name.partition(":")[0])


def _alias(stored: Stored, weight: keras.Variable) -> keras.Variable:
    alias = keras.Variable(stored.variable, name=weight.name)
    alias._path = weight.path
    if len(stored.shapes) == 1:
        alias.constraint = weight.constraint
    return alias
