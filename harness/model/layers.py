"""The layers of models: `MultiHotDense`, a dense layer over multi-hot vectors that are never built,
and `HashDropout`, whose random bits cost next to nothing.

Letters: B rows, V num_tokens, H units, N length of the ids' buffer.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import keras
import tensorflow as tf

from harness.base.checks import require, require_choice, require_count
from harness.feed.batch import RaggedInput
from harness.model.options import TableDtype, TableOptimizer
from kernels.multi_hot import (
    IMPLEMENTATIONS,
    Implementation,
    multi_hot_dense,
    takes_rowids,
    touched_rows,
)
from kernels.multi_hot.padded import padded_dense
from kernels.random_bits import random_bits

_DTYPES = {
    "values": ("int32", "uint16"),
    "row_splits": ("int32", "int64"),
    "weights": ("float32",),
}  # Dtypes that the layer takes, by input; ids and positions are integers
_OPTIONAL = {"weights"}
_LARGE = 2**22  # Numbers of a table for which a copy would matter, and tracing a function does not
_KINDS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
_OPTIONS = {f"{weight}_{n}": kind for weight in ("kernel", "bias") for n, kind in _KINDS.items()}


class TableCall(NamedTuple):
    """A call of a layer whose ids and products' gradient take the place of the table's gradient."""

    layer: "MultiHotDense"
    implementation: Implementation
    sets: Mapping[str, Any]  # `values`, `row_splits`, `weights`, `unique`
    touched: Any  # Rows that the sets touch, a `Touched`, if only these are updated; else None
    outputs: Any  # Zeros [B, H] added to the products, to get their gradient

    @property
    def name(self) -> str:
        return str(self.layer.kernel.path)


class RowReader(NamedTuple):
    """How a layer reads a table that is updated by rows."""

    implementation: Implementation  # Implementation that finds, sums and updates the touched rows
    caught_up: Callable[[Any], Any]  # From the touched rows to the table [V, H] to read


@dataclass(eq=False, kw_only=True)
class CallContext:
    """What a trainer's program tells the layers of a model that it calls, and what they record."""

    implementation: Implementation  # Implementation of products whose layers name none
    inputs: Sequence[tuple[Mapping[str, Any], RaggedInput]] = ()
    """The tensors of each ragged input that the model gets, and what the program knows of them."""
    readers: Mapping[str, RowReader] = field(default_factory=dict)
    """How to read tables that are updated by rows, by the kernels' paths. They are not cast to
    the compute dtype, which would take a second one."""
    watch: Callable[[Any], None] | None = None  # the tape's method; None: nothing needs gradients
    pays: Callable[["MultiHotDense", Mapping[str, Any]], bool] = lambda layer, inputs: False
    """Whether to record a call of a layer without `RowReader`, given its inputs."""
    calls: list[TableCall] = field(default_factory=list)  # recorded in a step that needs gradients
    export: bool = False  # Whether `implementation` overrides the layers' own, to run anywhere
    padded: bool = False  # Whether `padded_dense` computes, for other runtimes

    def input_of(self, inputs: Mapping[str, Any]) -> RaggedInput:
        """Returns the ragged input whose tensors a layer was given: a model passes on these."""
        for given, ragged in self.inputs:
            if all(inputs[name] is given[name] for name in ("values", "row_splits")):
                weights = inputs.get("weights")
                is_whole = weights is given.get("weights")
                group = ragged.group if is_whole else None
                return ragged._replace(weights=weights, group=group)
        return RaggedInput(**inputs)

    def records(self, layer: "MultiHotDense", inputs: Mapping[str, Any]) -> bool:
        """Whether a layer is to record its call, by which its table's gradient follows."""
        by_rows = layer.kernel.path in self.readers
        return self.watch is not None and (by_rows or self.pays(layer, inputs))


_OUTSIDE = CallContext(implementation="gather")
_context: ContextVar[CallContext] = ContextVar("call_context")


def anywhere(*, padded: bool = False) -> CallContext:
    """Returns a context in which layers compute by TensorFlow's own operations, uncompiled."""
    return CallContext(implementation="gather", export=True, padded=padded)


@contextlib.contextmanager
def calling(context: CallContext) -> Iterator[None]:
    """Gives the layers that are called inside a context."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


@keras.saving.register_keras_serializable(package="harness")
class MultiHotDense(keras.layers.Layer):
    """`activation(multi_hot(rows) @ kernel + bias)`, where a repeated id of a row counts once.

    Called with a mapping of tensors, it returns [B, H] in the compute dtype:

    - `values` [N]: the ids of all rows one after another, each in [0, V); values from
      `row_splits[-1]` on are ignored.
    - `row_splits` [B + 1]: row i is `values[row_splits[i]:row_splits[i + 1]]`.
    - `weights` float32 [N], optional: elements of the multi-hot matrix in place of 1, such as
      counts or tf-idf; those of a repeated id add up. They stay float32 in every precision.
    """

    def __init__(
        self,
        units: int,
        num_tokens: int,
        *,
        implementation: Implementation | None = None,
        unique: bool = False,
        activation: Any = None,
        use_bias: bool = True,
        table_optimizer: TableOptimizer = "auto",
        table_dtype: TableDtype | None = None,
        **kwargs: Any,
    ) -> None:
        """Args:
        units: H.
        num_tokens: V.
        implementation: how the product is computed (`kernels.multi_hot.IMPLEMENTATIONS`). None
            leaves it to the trainer; outside a trainer, and in float64, which `native` does not
            compute, it means `gather`.
        unique: a promise that no row holds an id twice; if it is broken, an id may count twice.
        activation, use_bias: as in `keras.layers.Dense`.
        table_optimizer: the optimizer of the kernel in a trainer. `dense`: the trainer's optimizer
            updates all rows in every step; `adam`: the same, but it must be Adam. The others change
            only the rows of the batch's ids, by the trainer's learning rate: `sgd`; `adagrad`, with
            one sum for each row; `lazy_adam`, which leaves out what Adam does to the other rows;
            `exact_adam`, whose rows make up for it when their id comes again. `auto`: the trainer
            chooses.
        table_dtype: the kernel's dtype. float32; or bfloat16, which takes half the memory. Its sums
            are float32, and updates are rounded up or down by chance, so that small ones count on
            average; it needs a `table_optimizer` of touched rows other than `exact_adam`. None: the
            dtype of the layer's policy.
        **kwargs: as in `keras.layers.Dense`: `kernel_initializer`, `bias_initializer`,
            `kernel_regularizer`, `bias_regularizer`, `kernel_constraint`, `bias_constraint`, and
            those of any layer, such as `activity_regularizer`, `name` and `dtype`.

        Raises:
            ValueError: if a size is below 1 or no int32, a choice is unknown, or the layer computes
                in float64 and the implementation or the table's dtype does not.
        """
        usual = {"kernel_initializer": "glorot_uniform", "bias_initializer": "zeros"}
        options = {name: kwargs.pop(name, usual.get(name)) for name in _OPTIONS}
        # Ids are integers: casting them to a 16-bit compute dtype would round those above 256
        # (bfloat16) or 2,048 (float16).
        super().__init__(autocast=False, **kwargs)
        require_count("units", units)
        require_count("num_tokens", num_tokens)
        require_choice("implementation", implementation or "gather", IMPLEMENTATIONS)
        require_choice("table_optimizer", table_optimizer, get_args(TableOptimizer))
        require_choice("table_dtype", table_dtype or "float32", get_args(TableDtype))
        if self.compute_dtype == "float64":
            implementation = implementation or "gather"
            require(
                implementation != "native" and table_dtype is None,
                f"{self.name} computes in float64, which {implementation} with table_dtype="
                f"{table_dtype!r} does not; choose gather or dense, and leave table_dtype out",
            )
        self.units = units
        self.num_tokens = num_tokens
        self.implementation = implementation
        self.unique = unique
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        for name, kind in _OPTIONS.items():
            setattr(self, name, kind.get(options[name]))
        self.table_optimizer = table_optimizer
        self.table_dtype = table_dtype

    def build(self, input_shape: Any) -> None:
        del input_shape  # both inputs are flat: their lengths decide nothing
        self.kernel = self._weight(
            "kernel",
            (self.num_tokens, self.units),
            dtype=self.table_dtype,
            initializer=_in_place(self.kernel_initializer),
        )
        self.bias = self._weight("bias", (self.units,)) if self.use_bias else None

    def _weight(self, name: str, shape: tuple[int, ...], **own: Any) -> Any:
        options = {kind: getattr(self, f"{name}_{kind}") for kind in _KINDS}
        return self.add_weight(name=name, shape=shape, **options | own)

    def call(self, inputs: dict[str, Any]) -> Any:
        _check_inputs(self, inputs)
        context = _context.get(_OUTSIDE)
        implementation = self.implementation or context.implementation
        if context.export:
            implementation = context.implementation
        ragged = context.input_of(inputs)
        sets: dict[str, Any] = {
            **ragged._asdict(),
            "unique": self.unique or ragged.unique,
            "value_rowids": ragged.value_rowids if takes_rowids(implementation) else None,
        }
        records, reader = context.records(self, inputs), context.readers.get(self.kernel.path)
        used, touched = implementation, None
        if reader is None:
            kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)
        elif not records:
            kernel = tf.convert_to_tensor(self.kernel)
        else:
            used = reader.implementation
            touched = touched_rows(**sets, num_tokens=self.num_tokens, implementation=used)
            kernel = reader.caught_up(touched)
        if records:
            # For the tape, products do not depend on the table, whose gradient would take as much
            # memory.
            kernel = tf.stop_gradient(kernel)
        if context.padded:
            operands = {name: sets[name] for name in _DTYPES}
            outputs = padded_dense(kernel, **operands, unique=self.unique)
        else:
            # A 16-bit table does not round the products.
            dtype = None if reader is None else tf.float32
            outputs = multi_hot_dense(kernel, **sets, implementation=implementation, dtype=dtype)
        if records and context.watch is not None:
            zeros = tf.zeros_like(outputs)
            context.watch(zeros)
            context.calls.append(TableCall(self, used, sets, touched, zeros))
            outputs += zeros
        outputs = tf.cast(outputs, self.compute_dtype)
        if self.bias is not None:
            bias = tf.cast(tf.convert_to_tensor(self.bias), self.compute_dtype)
            outputs += bias
        return self.activation(outputs)

    def compute_output_spec(self, inputs: dict[str, Any]) -> keras.KerasTensor:
        _check_inputs(self, inputs)
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        spec = keras.KerasTensor(self.compute_output_shape(shapes), dtype=self.compute_dtype)
        # An activation may be a layer, with a dtype policy of its own.
        own = getattr(self.activation, "compute_output_spec", None)
        return own(spec) if own else spec

    def compute_output_shape(self, input_shape: dict[str, Any]) -> tuple[int | None, int]:
        (num_splits,) = input_shape["row_splits"]
        return (None if num_splits is None else num_splits - 1, self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "num_tokens": self.num_tokens,
            "implementation": self.implementation,
            "unique": self.unique,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **{name: kind.serialize(getattr(self, name)) for name, kind in _OPTIONS.items()},
            "table_optimizer": self.table_optimizer,
            "table_dtype": self.table_dtype,
        }


@keras.saving.register_keras_serializable(package="harness")
class HashDropout(keras.layers.Dropout):
    """Keras's Dropout with the same seed state, but masks from a hash: an element is kept if
    `random_bits >= rate * 2**32`, and then scaled by 1 / (1 - rate). On a CPU, XLA's generators
    (Philox, ThreeFry) take longer for the masks of the tutorial's network than all its products."""

    def __init__(self, rate: float, *, seed: int | None = None, **kwargs: Any) -> None:
        """Args:
        rate: share of the elements to drop, from 0 to 1.
        seed: seed of the masks; each call advances a state that begins with it.
        **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.
        """
        if kwargs.pop("noise_shape", None) is not None:
            raise ValueError("HashDropout draws for every element; noise_shape must be None")
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate in (0, 1) or not inputs.dtype.is_floating:
            return super().call(inputs, training=training)
        bits = random_bits(tf.shape(inputs), tf.convert_to_tensor(self.seed_generator.next()))
        keep = bits >= tf.constant(int(self.rate * 2**32), tf.uint32)
        scale = tf.constant(1 / (1 - self.rate), inputs.dtype)
        return tf.where(keep, inputs * scale, tf.zeros([], inputs.dtype))


def _in_place(initializer: Any) -> Callable[..., Any]:
    """Returns an initializer that gives the same numbers as one of Keras's, and draws large arrays
    in the memory of the result, where Keras needs three times as much."""
    has_seed = isinstance(getattr(initializer, "seed", None), int)
    if not has_seed or not type(initializer).__module__.startswith("keras."):
        return initializer

    def draw(shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        if math.prod(shape) <= _LARGE or not tf.executing_eagerly():
            return initializer(shape, dtype)
        # In a function, TensorFlow scales the numbers where they lie. It reads the seed from a
        # variable: of a constant seed it would draw them twice, to fold constants.
        again = copy.copy(initializer)
        again.seed = keras.random.SeedGenerator(initializer.seed, name="initial_values")
        return tf.function(lambda: again(shape, dtype), autograph=False).get_concrete_function()()

    return draw


def _check_inputs(layer: MultiHotDense, inputs: Any) -> None:
    """Raises ValueError if an input is missing, or has another type or several axes."""
    # Nothing is cast: narrowing ids silently could turn one into another.
    if not isinstance(inputs, dict) or set(inputs) | _OPTIONAL != set(_DTYPES):
        given = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(
            f"{layer.name} takes a mapping of 'values' and 'row_splits', and 'weights' where ids "
            f"have some; it was given {given}"
        )
    for name in inputs:
        allowed = _DTYPES[name]
        kind = getattr(inputs[name], "dtype", type(inputs[name]))
        dtype = kind.__name__ if isinstance(kind, type) else tf.as_dtype(kind).name
        if dtype not in allowed:
            raise ValueError(
                f"{layer.name} was given {name} of type {dtype}; it takes {' or '.join(allowed)}: "
                "cast numbers that are known to fit"
            )
        shape = tf.TensorShape(inputs[name].shape)
        if shape.rank not in (None, 1):
            raise ValueError(
                f"{layer.name} was given {name} of shape {shape}; it takes one axis: make inputs "
                f"by keras.Input(shape=(), dtype={dtype!r}, name={name!r})"
            )
