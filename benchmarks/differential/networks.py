"""Random networks, from inputs to outputs.

Every initializer has a seed, so that a model made twice starts with the same weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

import harness
from benchmarks.differential import layers
from benchmarks.differential.draw import Draw
from benchmarks.differential.endings import ENDINGS, Out
from benchmarks.differential.rows import Part

SMOOTH = ("gelu", "tanh", "sigmoid", "softplus", "swish", "elu", "linear", "mish")
_NORMS = ("BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization")
_LOSSES = ("RowMeanPenalty", "InBatchSoftmax", "RowSumPenalty", "KernelPenalty")
_OVER_ROWS = ("Centred", "PerRow", "SoftmaxOverRows", "Counting")
Parts = dict[str, keras.layers.Layer]
Layer = Callable[[str, Callable[[str, Parts], keras.layers.Layer]], keras.layers.Layer]
"""A function that returns the layer of a name; its second argument makes the layer, from the name
and the layers before it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The requirements of the rest of a case on its model."""

    num_outputs: int
    head: str | None  # The activation at the end; None if the model returns logits
    row_wise: bool
    """Whether no layer but BatchNormalization may compute over the batch axis, nor have a gradient
    by rows: each of several replicas has a part of the batch, and makes such gradients dense."""
    large: bool  # Whether tables are large enough for touched rows
    ending: str | None = None  # A key of `ENDINGS`; None for a Dense layer with or without `head`
    activation: str = "sigmoid"  # What makes probabilities of logits in the ending


class Network:
    """A drawn network; each call of `outputs` draws the same again."""

    def __init__(self, seed: int, parts: tuple[Part, ...], limits: Limits) -> None:
        self._seed = seed
        self._parts = parts
        self._limits = limits
        self.words: list[str] = []
        """A description of the drawn network, to print."""

    def outputs(self, inputs: Any, layer: Layer) -> Any:
        """Returns the model's outputs for inputs, symbolic or not, by the names that `keras_inputs`
        gives them; `layer` returns a layer by name."""
        return _Drawing(self, Draw(self._seed, "model"), layer).outputs(inputs)


class _Drawing:
    """A pass over the network."""

    def __init__(self, network: Network, draw: Draw, layer: Layer) -> None:
        self._network = network
        self._limits = network._limits
        self._draw = draw
        self._layer = layer
        self._tables: list[str] = []
        self._kernels: list[str] = []
        network.words.clear()

    def _say(self, words: str) -> None:
        self._network.words.append(words)

    def outputs(self, inputs: Any) -> Any:
        draw, parts = self._draw, self._network._parts
        units = 4 if self._limits.large else draw.one([4, 6, 8])
        encoded = [
            self._encoded(part, inputs[part.name] if part.name else inputs, units) for part in parts
        ]
        ragged = [part for part in parts if part.is_ragged]
        if self._tables and not self._limits.large and draw.chance(0.12):
            encoded.append(self._again(ragged[0], inputs, units))
        if len(encoded) > 1 and draw.chance(0.3):
            x = encoded[0]
            for other in encoded[1:]:
                x = x + other
        elif len(encoded) > 1:
            x = keras.ops.concatenate(encoded, axis=-1)
        else:
            (x,) = encoded
        for place in range(draw.weighted({0: 1, 1: 3, 2: 3, 3: 1})):
            x = self._block(place, x)
        x = self._tower(x)
        if self._limits.ending is None:
            return self._head(x)
        self._say(f"out {self._limits.num_outputs} by {self._limits.ending}")
        ending = Draw(self._network._seed, "ending's weights")
        out = Out(ending, self._new, self._limits.num_outputs, self._limits.activation)
        return ENDINGS[self._limits.ending].make(out, x)

    # Layers by name

    def _new(self, name: str, kind: Any, *given: Any, **options: Any) -> keras.layers.Layer:
        return self._layer(name, lambda own, _: kind(*given, name=own, **options))

    def _encoded(self, part: Part, inputs: Any, units: int) -> Any:
        """Encodes an input as [B, units]."""
        draw, name = self._draw, part.name or "ids"
        if not part.is_ragged:
            return self._dense(f"encode_{name}", units, use_bias=True)(inputs)
        kind = draw.weighted(
            {
                "product": 8,
                "pooled": int(not (self._limits.large or self._limits.row_wise)),
                "two": 1,
            }
        )
        if kind == "pooled":
            mean, seed = draw.chance(0.5), draw.integer(0, 10**6)
            self._say(f"pooled embedding of {name}, {'mean' if mean else 'sum'}")
            pooled = self._new(
                f"pooled_{name}", layers.Pooled, part.num_tokens, units, mean=mean, seed=seed
            )
            return pooled(inputs)
        x = self._product(f"table_{name}", part, units)(inputs)
        if kind == "two" and not self._limits.large:
            x = x + self._product(f"second_{name}", part, units)(inputs)
        return self._normalized(f"norm_{name}", x, 0.15)

    def _product(self, name: str, part: Part, units: int) -> keras.layers.Layer:
        draw = self._draw
        options: dict[str, Any] = {
            "activation": self._activation(),
            "use_bias": draw.chance(0.7),
            "kernel_initializer": self._initializer(),
            "bias_initializer": self._initializer(),
            "kernel_regularizer": self._regularizer(0.0 if self._limits.large else 0.12),
            "activity_regularizer": self._regularizer(0.06),
            "unique": part.unique and draw.chance(0.3),
            "implementation": draw.weighted({None: 6, "gather": 1, "dense": 1}),
        }
        if self._limits.large:
            options["implementation"] = None
        frozen = not self._limits.large and draw.chance(0.05)
        self._say(_described("MultiHotDense", name, units, options, frozen=frozen))
        self._tables.append(name)
        if not frozen:
            self._kernels.append(name)
        options["trainable"] = not frozen
        return self._new(name, harness.MultiHotDense, units, part.num_tokens, **options)

    def _again(self, part: Part, inputs: Any, units: int) -> Any:
        """Uses the first table a second time for the same input."""
        own = inputs[part.name] if part.name else inputs
        name = self._tables[0]
        if self._draw.chance(0.5):
            self._say(f"{name} called twice")
            return 0.5 * self._layer(name, _made_before)(own)
        self._say(f"another layer with the table of {name}")
        return self._layer("same_table", lambda new, made: layers.SameTable(made[name], name=new))(
            own
        )

    def _dense(self, name: str, units: int, *, use_bias: bool) -> keras.layers.Layer:
        draw = self._draw
        options: dict[str, Any] = {
            "activation": self._activation(),
            "use_bias": use_bias,
            "kernel_initializer": self._initializer(),
            # With zero biases, rows without ids would lie at a metric's threshold.
            "bias_initializer": self._initializer(),
            "kernel_regularizer": self._regularizer(0.12),
            "bias_regularizer": self._regularizer(0.06) if use_bias else None,
            "activity_regularizer": self._regularizer(0.08),
            "kernel_constraint": "unit_norm" if draw.chance(0.03) else None,
        }
        frozen = draw.chance(0.06)
        self._say(_described("Dense", name, units, options, frozen=frozen))
        if not frozen:
            self._kernels.append(name)
        return self._new(name, keras.layers.Dense, units, trainable=not frozen, **options)

    def _block(self, place: int, x: Any) -> Any:
        draw = self._draw
        units = draw.one([4, 6, 8])
        over_rows = draw.weighted({None: 12} | dict.fromkeys(_OVER_ROWS, 1))
        if self._limits.row_wise:
            over_rows = None
        norm = self._drawn_norm(0.3)
        # If the next layer cancels a bias, its gradient is only rounding, from which many
        # optimizers make whole steps.
        use_bias = norm != "BatchNormalization" and over_rows != "Centred" and draw.chance(0.85)
        dense = self._dense(f"hidden_{place}", units, use_bias=use_bias)
        y = dense(x)
        if over_rows is not None:
            self._say(over_rows)
            y = self._new(f"over_rows_{place}", getattr(layers, over_rows))(y)
        y = self._norm(f"norm_{place}", norm, y)
        if draw.chance(0.08):
            self._say(f"hidden_{place} called twice")
            # Its input has the width that it takes.
            y = y + dense(x * 0.5)
        if x.shape[-1] == y.shape[-1] and draw.chance(0.3):
            self._say("residual")
            y = x + y
        if draw.chance(0.06):
            kind = draw.one([keras.layers.Dropout, harness.HashDropout, keras.layers.GaussianNoise])
            self._say(f"{kind.__name__}(0)")
            y = self._new(f"dropout_{place}", kind, 0.0)(y)
        return self._added_loss(place, y)

    def _added_loss(self, place: int, x: Any) -> Any:
        draw = self._draw
        kind = draw.weighted({None: 14} | dict(zip(_LOSSES, (1, 1, 0.5, 1), strict=True)))
        if self._limits.row_wise and kind in ("InBatchSoftmax", "RowSumPenalty"):
            kind = None
        factor = draw.log_between(0.01, 0.1)
        if kind is None or (kind == "KernelPenalty" and not self._kernels):
            return x
        self._say(f"{kind}({factor})")
        name = f"loss_{place}"
        if kind == "KernelPenalty":
            other = draw.one(self._kernels)
            return self._layer(
                name, lambda own, made: layers.KernelPenalty(made[other], factor, name=own)
            )(x)
        given = () if kind == "RowSumPenalty" else (factor,)
        return self._new(name, getattr(layers, kind), *given)(x)

    def _tower(self, x: Any) -> Any:
        """Applies a model that is a layer of this one, or two of whose layers have one name."""
        draw, units = Draw(self._network._seed, "tower"), x.shape[-1]
        kind = draw.weighted({None: 7, "Sequential": 1, "twice": 1, "clones": 1})
        if kind is None:
            return x
        seed = draw.integer(0, 10**6)

        def make(name: str, _: Parts) -> keras.Model:
            own = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.4, seed=seed)}
            first = keras.layers.Dense(5, activation="tanh", name="inner", **own)
            last = keras.layers.Dense(units, name="last", **own)
            start = keras.Input([units])
            if kind == "Sequential":
                return keras.Sequential([start, first, last], name=name)
            return keras.Model(start, last(first(start)), name=name)

        self._say(f"a model in the model: {kind}")
        tower = self._layer("tower", make)
        if kind == "Sequential":
            return tower(x)
        other = self._layer("clone", make) if kind == "clones" else tower
        return tower(x) - 0.3 * other(0.5 * x)

    def _head(self, x: Any) -> Any:
        draw, limits = self._draw, self._limits
        head, outputs = limits.head, limits.num_outputs
        tables = [name for name in self._tables if self._layer(name, _made_before).units]
        if tables and draw.chance(0.12):
            name = tables[0]
            table = self._layer(name, _made_before)
            if table.num_tokens >= outputs:
                if x.shape[-1] != table.units:
                    x = self._dense("to_tied", table.units, use_bias=True)(x)
                self._say(f"tied to {name}")
                logits = self._layer(
                    "out", lambda own, made: layers.Tied(made[name], outputs, name=own)
                )
                return self._activated(logits(x))
        apart = head is not None and draw.chance(0.3)
        options: dict[str, Any] = {
            "activation": None if apart else head,
            "use_bias": draw.chance(0.85),
            "kernel_initializer": self._initializer(),
            "bias_initializer": self._initializer(),
        }
        self._say(f"out {outputs} {head or 'logits'}")
        x = self._new("out", keras.layers.Dense, outputs, **options)(x)
        return self._activated(x) if apart else x

    def _activated(self, x: Any) -> Any:
        head = self._limits.head
        if head is None:
            return x
        return self._new("head", keras.layers.Activation, head)(x)

    # Options

    def _activation(self) -> str:
        kind = self._draw.one(SMOOTH)
        return "relu" if self._draw.chance(0.05) else kind

    def _initializer(self) -> keras.initializers.Initializer:
        seed = self._draw.integer(0, 10**6)
        return keras.initializers.RandomNormal(stddev=0.4, seed=seed)

    def _regularizer(self, probability: float) -> keras.regularizers.Regularizer | None:
        draw, factor = self._draw, self._draw.log_between(1e-3, 3e-2)
        of = keras.regularizers
        made = draw.one([of.L2(factor), of.L1(factor), of.L1L2(factor, factor)])
        return made if draw.chance(probability) else None

    def _drawn_norm(self, probability: float) -> str | None:
        kind = self._draw.weighted(dict(zip(_NORMS, (4, 2, 1, 1), strict=True)))
        return kind if self._draw.chance(probability) else None

    def _normalized(self, name: str, x: Any, probability: float) -> Any:
        kind = self._drawn_norm(probability)
        # This follows a product with a bias and no activation; see `_block`.
        return self._norm(name, None if kind == "BatchNormalization" else kind, x)

    def _norm(self, name: str, kind: str | None, x: Any) -> Any:
        draw = self._draw
        momentum, frozen = draw.one([0.9, 0.5, 0.99]), draw.chance(0.1)
        if kind is None:
            return x
        if kind == "GroupNormalization" and x.shape[-1] % 2:
            kind = "LayerNormalization"
        options: Any = {
            "BatchNormalization": {"momentum": momentum, "trainable": not frozen},
            "GroupNormalization": {"groups": 2},
        }.get(kind, {})
        if kind == "UnitNormalization":
            x = x + 0.1  # the norm of a row of zeros has no gradient
        self._say(f"{kind}({', '.join(f'{k}={v}' for k, v in options.items())})")
        return self._new(name, getattr(keras.layers, kind), **options)(x)


def _made_before(name: str, parts: Parts) -> keras.layers.Layer:
    raise AssertionError(f"{name} is to be made before it is called again")


def _described(kind: str, name: str, units: int, options: dict[str, Any], *, frozen: bool) -> str:
    words = [f"{kind} {name} {units}"]
    for option, value in options.items():
        if option.endswith("initializer") or value in (None, False, "linear"):
            continue
        words.append(
            f"{option}={value if isinstance(value, (str, bool)) else type(value).__name__}"
        )
    return " ".join([*words, *(["frozen"] if frozen else [])])
