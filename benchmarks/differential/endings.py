"""The last layers of models, as scripts end them, and what Keras's losses take from each."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import keras

from benchmarks.differential import layers
from benchmarks.differential.draw import Draw

kl, ops = keras.layers, keras.ops


class Out:
    """Makes the layers of an ending, with weights that are drawn anew in every pass."""

    def __init__(self, draw: Draw, new: Callable[..., Any], units: int, head: str) -> None:
        self._draw, self._new = draw, new
        self.units, self.head = units, head  # The outputs; what makes probabilities of logits
        self._made = 0

    def layer(self, kind: Any, *given: Any, **options: Any) -> Any:
        """Makes a layer; the first of a model is called `out`."""
        self._made += 1
        return self._new(f"out_{self._made}" if self._made > 1 else "out", kind, *given, **options)

    def dense(
        self, x: Any, activation: Any = None, units: int | None = None, **options: Any
    ) -> Any:
        """Applies a Dense layer, by default with as many units as the model has outputs."""
        of, seed = keras.initializers.RandomNormal, self._draw.integer(0, 10**6)
        options = {"use_bias": True, **options}
        own = {"kernel_initializer": of(0.0, 0.4, seed), "bias_initializer": of(0.0, 0.4, seed + 1)}
        dense = self.layer(kl.Dense, units or self.units, activation=activation, **own, **options)
        return dense(x)

    def probabilities(self, x: Any, units: int | None = None) -> Any:
        """Applies a Dense layer with a sigmoid or softmax."""
        return self.dense(x, self.head, units)

    def many(self, x: Any, activation: str | None) -> list[Any]:
        """Returns an output of a Dense layer of its own for each of the model's outputs."""
        return [self.dense(x, activation, 1) for _ in range(self.units)]


def _mixture(o: Out, x: Any) -> Any:
    experts = ops.stack([o.probabilities(x), o.probabilities(x)], axis=1)
    return ops.sum(o.dense(x, "softmax", 2)[:, :, None] * experts, axis=1)


def _float64(o: Out, x: Any, activation: str | None) -> Any:
    return ops.cast(o.dense(x, activation, dtype="float64"), "float32")


def _batch_norm(o: Out, x: Any) -> Any:
    return o.layer(kl.BatchNormalization, momentum=0.9)(o.dense(x, use_bias=False))


def _shares(exponentials: Any) -> Any:
    return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)


Given = Literal["logits", "probabilities", "unknown"]


class Ending(NamedTuple):
    """An ending of a model."""

    gives: Given  # What it gives as far as its last operations say
    make: Callable[[Out, Any], Any]
    heads: tuple[str | None, ...] = ("sigmoid", "softmax", None)
    """The activations of the tasks that it fits; None for a regression."""


_S, _C, _P = ("sigmoid", None), ("softmax",), ("sigmoid", "softmax")
ENDINGS: dict[str, Ending] = {
    "a Bias layer": Ending("logits", lambda o, x: o.layer(layers.Bias)(o.dense(x, use_bias=False))),
    "BatchNormalization": Ending("logits", _batch_norm),
    "Dropout of logits": Ending("logits", lambda o, x: o.layer(kl.Dropout, 0.0)(o.dense(x))),
    "temperature": Ending("logits", lambda o, x: o.dense(x) / 2.5),
    "sum of logits": Ending("logits", lambda o, x: o.dense(x) + o.dense(x)),
    "average of logits": Ending(
        "logits", lambda o, x: o.layer(kl.Average)([o.dense(x), o.dense(x)])
    ),
    "learned scale": Ending("logits", lambda o, x: o.layer(layers.Scale)(o.dense(x))),
    "cast logits": Ending("logits", lambda o, x: _float64(o, x, None)),
    "concatenated logits": Ending("logits", lambda o, x: ops.concatenate(o.many(x, None), axis=-1)),
    "slice of logits": Ending("logits", lambda o, x: o.dense(x, None, o.units + 2)[:, : o.units]),
    "reshaped logits": Ending("logits", lambda o, x: o.layer(kl.Reshape, [o.units])(o.dense(x))),
    "gated logits": Ending("logits", lambda o, x: o.dense(x, "sigmoid") * o.dense(x)),
    "Activation": Ending("probabilities", lambda o, x: o.layer(kl.Activation, o.head)(o.dense(x))),
    "keras.ops": Ending("probabilities", lambda o, x: getattr(ops, o.head)(o.dense(x)), _P),
    "tf.nn": Ending("probabilities", lambda o, x: o.layer(layers.ByName, o.head)(o.dense(x)), _P),
    "Softmax": Ending("probabilities", lambda o, x: o.layer(kl.Softmax)(o.dense(x)), _C),
    "Lambda": Ending(
        "probabilities",
        lambda o, x: o.layer(kl.Lambda, keras.activations.get(o.head))(o.dense(x)),
    ),
    "Dropout of probabilities": Ending(
        "probabilities", lambda o, x: o.layer(kl.Dropout, 0.0)(o.probabilities(x))
    ),
    "cast probabilities": Ending("probabilities", lambda o, x: _float64(o, x, o.head)),
    "Concatenate": Ending("unknown", lambda o, x: ops.concatenate(o.many(x, "sigmoid"), -1), _S),
    "Average": Ending(
        "unknown", lambda o, x: o.layer(kl.Average)([o.probabilities(x), o.probabilities(x)])
    ),
    "Flatten": Ending("unknown", lambda o, x: o.layer(kl.Flatten)(o.probabilities(x))),
    "Reshape": Ending("unknown", lambda o, x: o.layer(kl.Reshape, [o.units])(o.probabilities(x))),
    "hard_sigmoid": Ending("unknown", lambda o, x: o.dense(x, "hard_sigmoid"), _S),
    "product": Ending("unknown", lambda o, x: o.probabilities(x) * o.probabilities(x), _S),
    "mixture of experts": Ending("unknown", _mixture),
    "clip": Ending("unknown", lambda o, x: ops.clip(o.probabilities(x), 1e-3, 1 - 1e-3)),
    "Maximum": Ending(
        "unknown", lambda o, x: o.layer(kl.Maximum)([o.probabilities(x), o.probabilities(x)]), _S
    ),
    "squeeze": Ending("unknown", lambda o, x: ops.squeeze(o.probabilities(x[:, None]), 1)),
    "slice": Ending("unknown", lambda o, x: o.dense(x, "softmax", o.units + 1)[:, : o.units], _S),
    "complement": Ending("unknown", lambda o, x: 1 - o.probabilities(x), _S),
    "tanh": Ending("unknown", lambda o, x: 0.5 * (o.dense(x, "tanh") + 1), _S),
    "sigmoid by exp": Ending("unknown", lambda o, x: 1 / (1 + ops.exp(-o.dense(x))), _S),
    "softmax by exp": Ending("unknown", lambda o, x: _shares(o.dense(x, "exponential")), _C),
    "softplus": Ending("unknown", lambda o, x: 1 - ops.exp(-o.dense(x, "softplus")), _S),
    "sigmoid of classes": Ending("unknown", lambda o, x: o.dense(x, "sigmoid"), _C),
    "softmax of labels": Ending(
        "unknown", lambda o, x: o.dense(x, "softmax", o.units), ("sigmoid",)
    ),
}


def draw_ending(draw: Draw, head: str | None) -> str | None:
    """Draws the name of an ending that fits a task, or None for a Dense layer with or without an
    activation."""
    known = {name: float(head in ending.heads) for name, ending in ENDINGS.items()}
    return draw.weighted(known) if draw.chance(0.6) else None
