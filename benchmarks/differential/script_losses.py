"""Models from public scripts: endings and losses; see scripts.py."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers as L  # noqa: N812
from keras import ops

import harness
from benchmarks.differential.rows import Part
from benchmarks.differential.scripts import (
    CROSS,
    IO,
    KERAS_2,
    NUMBERS,
    ROWS,
    TEXT,
    TOKENS,
    M,
    O,
    bag,
    deep,
    embedded,
    script,
    task,
)


@script(
    f"{IO}keras_recipes/quasi_svm.py", (NUMBERS,),
    task("categorical", lambda: (
        keras.losses.hinge, [M.CategoricalAccuracy(name="acc")]
    ), logits=True),
)  # fmt: skip
def quasi_svm(inputs: Any) -> Any:
    fixed = L.Dense(32, kernel_initializer="random_normal", trainable=False)
    return L.Dense(4)(ops.cos(fixed(inputs["numbers"])))


def _tilted(y: Any, p: Any, q: float = 0.9) -> Any:
    return ops.mean(ops.maximum(q * (y - p), (q - 1) * (y - p)), axis=-1)


@script(
    "sachinruk/KerasQuantileModel Keras Quantile Model.ipynb", (NUMBERS,),
    task("regression", lambda: (_tilted, []), logits=True), lambda: O.Adadelta(1.0),
)  # fmt: skip
def quantile_regression(inputs: Any) -> Any:
    return L.Dense(1)(deep(inputs["numbers"], 10, 10))


@script(
    "KordingLab/spykesML MLencoding/mlencoding.py", (NUMBERS,),
    task("regression", lambda: ("poisson", []), of_score=lambda s: np.floor(np.exp(s))),
    lambda: O.RMSprop(0.01),
)  # fmt: skip
def poisson_counts(inputs: Any) -> Any:
    x = inputs["numbers"]
    for _ in range(2):
        x = L.Dropout(0.0)(L.Dense(10, activation="relu")(x))
    return L.Dense(1, activation="softplus")(L.BatchNormalization()(x))


def _focal(y: Any, p: Any) -> Any:
    p = ops.clip(p, 1e-7, 1 - 1e-7)
    right = ops.where(ops.equal(y, 1), p, 1 - p)
    alpha = ops.where(ops.equal(y, 1), 0.25, 0.75)
    return ops.mean(ops.sum(-alpha * (1 - right) ** 2 * ops.log(right), axis=1))


@script(
    "umbertogriffo/focal-loss-keras losses.py", TEXT, task("binary", lambda: (_focal, ["accuracy"]))
)
def focal_loss(inputs: Any) -> Any:
    return L.Dense(1, activation="sigmoid")(bag(inputs, 8, "relu"))


class Coral(L.Layer):
    """Several logits of one number, which differ by their biases."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 1))
        self.bias = self.add_weight(shape=(3,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        return ops.matmul(inputs, self.kernel) + self.bias


def _coral(levels: Any, logits: Any) -> Any:
    positive = ops.log_sigmoid(logits)
    return ops.mean(-ops.sum(positive * levels + (positive - logits) * (1 - levels), axis=1))


@script(
    "ck37/coral-ordinal coral_ordinal", (NUMBERS,),
    task("multi_label", lambda: (_coral, []), classes=3, logits=True,
         of_score=lambda s: (s[:, None] > [-1, 0, 1]).astype(np.float32)),
)  # fmt: skip
def coral_ordinal_regression(inputs: Any) -> Any:
    return Coral()(deep(inputs["numbers"], 16))


def _zero_inflated(labels: Any, logits: Any) -> Any:
    positive = ops.cast(labels > 0, "float32")
    found = keras.losses.binary_crossentropy(positive, logits[..., :1], from_logits=True)
    scale = ops.maximum(ops.softplus(logits[..., 2:]), math.sqrt(keras.config.epsilon()))
    number = ops.log(positive * labels + 1 - positive)
    distance = ops.square((number - logits[..., 1:2]) / scale) / 2
    log_prob = -distance - ops.log(scale) - number - math.log(2 * math.pi) / 2
    return found - ops.mean(positive * log_prob, axis=-1)


@script(
    "google/lifetime_value lifetime_value/zero_inflated_lognormal.py", CROSS,
    task("regression", lambda: (_zero_inflated, []), of_score=lambda s: np.maximum(s, 0)),
)  # fmt: skip
def zero_inflated_lognormal(inputs: Any) -> Any:
    parts = [bag(inputs["tags"], 4), *embedded(inputs, 3), inputs["numbers"]]
    return L.Dense(3)(deep(L.concatenate(parts), 8, 8))


def _mixture(labels: Any, outputs: Any) -> Any:
    mean, sigma, share = ops.split(outputs, 3, axis=-1)
    log_prob = -ops.square((labels - mean) / sigma) / 2 - ops.log(sigma)
    return -ops.logsumexp(ops.log_softmax(share) + log_prob, axis=-1)


@script(
    f"{IO}keras_recipes/approximating_non_function_mappings.py", (NUMBERS,),
    task("regression", lambda: (_mixture, [])),
)  # fmt: skip
def mixture_density_network(inputs: Any) -> Any:
    x = deep(inputs["numbers"], 16, 16)
    sigma = L.Dense(4, activation=lambda y: ops.elu(y) + 1 + keras.config.epsilon())(x)
    return L.concatenate([L.Dense(4)(x), sigma, L.Dense(4)(x)])


class DenseVariational(L.Layer):
    """A layer with a normal distribution of each weight, and noise that is drawn once."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1] + 1, 8))
        self.rho = self.add_weight(shape=(shape[-1] + 1, 8), initializer="zeros")
        self.noise = ops.convert_to_tensor(np.random.normal(size=(shape[-1] + 1, 8)), "float32")

    def call(self, inputs: Any) -> Any:
        scale = ops.softplus(self.rho)
        divergence = (ops.square(scale) + ops.square(self.mean) - 1) / 2 - ops.log(scale)
        self.add_loss(ops.sum(divergence) / ROWS)
        weights = self.mean + scale * self.noise
        return ops.sigmoid(ops.matmul(inputs, weights[:-1]) + weights[-1])


@script(
    f"{IO}keras_recipes/bayesian_neural_networks.py", (NUMBERS,),
    task("regression", lambda: (
        keras.losses.MeanSquaredError(), [M.RootMeanSquaredError()]
    ), logits=True), lambda: O.RMSprop(0.01),
)  # fmt: skip
def bayesian_network(inputs: Any) -> Any:
    x = L.BatchNormalization()(inputs["numbers"])
    return L.Dense(1)(DenseVariational()(DenseVariational()(x)))


def _gaussian(labels: Any, outputs: Any) -> Any:
    mean, scale = outputs[:, :1], 1e-5 + ops.softplus(outputs[:, 1:])
    return ops.mean(ops.square((labels - mean) / scale) / 2 + ops.log(scale), axis=-1)


@script(
    f"{IO}keras_recipes/bayesian_neural_networks.py", (NUMBERS,),
    task("regression", lambda: (_gaussian, [])), lambda: O.RMSprop(0.01),
)  # fmt: skip
def probabilistic_bayesian_network(inputs: Any) -> Any:
    x = L.BatchNormalization()(inputs["numbers"])
    return L.Dense(2)(DenseVariational()(x))


class Divergence(L.Layer):
    """Adds the divergence of a code's distribution from the standard one, and draws a code."""

    def call(self, inputs: Any) -> Any:
        mean, log_var, noise = inputs
        divergence = -0.5 * ops.sum(1 + log_var - ops.square(mean) - ops.exp(log_var), axis=-1)
        self.add_loss(ops.mean(divergence))
        return mean + ops.exp(log_var / 2) * noise


@script(
    f"{KERAS_2}variational_autoencoder.py", (CROSS[0], Part(name="noise", features=2)),
    task("multi_label", lambda: ("binary_crossentropy", [])), lambda: O.RMSprop(0.01),
)  # fmt: skip
def variational_autoencoder(inputs: Any) -> Any:
    x = bag(inputs["tags"], 16, "relu")
    code = Divergence()([L.Dense(2)(x), L.Dense(2)(x), inputs["noise"]])
    return L.Dense(4, activation="sigmoid")(deep(code, 16))


PAIR = (Part(name="a", num_tokens=TOKENS), Part(name="b", num_tokens=TOKENS))


def _contrastive(y: Any, distance: Any) -> Any:
    return ops.mean(y * ops.square(distance) + (1 - y) * ops.square(ops.maximum(1 - distance, 0)))


def _distance(pair: Any) -> Any:
    total = ops.sum(ops.square(pair[0] - pair[1]), axis=1, keepdims=True)
    return ops.sqrt(ops.maximum(total, keras.config.epsilon()))


def _towers(inputs: Any) -> list[Any]:
    table = harness.MultiHotDense(8, TOKENS, activation="relu")
    tower = keras.Sequential([L.Dense(8, activation="tanh"), L.Dropout(0.0), L.Dense(4)])
    return [tower(table(inputs[name])) for name in "ab"]


@script(
    f"{IO}vision/siamese_contrastive.py", PAIR,
    task("binary", lambda: (_contrastive, ["accuracy"])),
    lambda: O.RMSprop(0.01),
)  # fmt: skip
def siamese_contrastive(inputs: Any) -> Any:
    x = L.BatchNormalization()(L.Lambda(_distance)(_towers(inputs)))
    return L.Dense(1, activation="sigmoid")(x)


def near(y: Any, distance: Any) -> Any:
    """Returns the share of right answers by a threshold of distances."""
    return ops.mean(ops.equal(y, ops.cast(distance < 0.5, y.dtype)))


@script(
    f"{KERAS_2}mnist_siamese.py", PAIR, task("binary", lambda: (_contrastive, [near])),
    lambda: O.RMSprop(0.01),
)  # fmt: skip
def siamese_with_a_function_as_metric(inputs: Any) -> Any:
    return L.Lambda(_distance)(_towers(inputs))


class DenseMoE(L.Layer):
    """A mixture of experts."""

    def build(self, shape: Any) -> None:
        self.experts = self.add_weight(shape=(shape[-1], 4, 3), initializer="glorot_uniform")
        self.gate = self.add_weight(shape=(shape[-1], 3), initializer="glorot_uniform")

    def call(self, inputs: Any) -> Any:
        experts = ops.softmax(ops.tensordot(inputs, self.experts, axes=1), axis=1)
        gates = ops.softmax(ops.matmul(inputs, self.gate))
        return ops.sum(experts * ops.expand_dims(gates, 1), axis=2)


@script(
    "eminorhan/mixture-of-experts DenseMoE.py", TEXT,
    task("categorical", lambda: ("categorical_crossentropy", ["accuracy"])),
)  # fmt: skip
def dense_mixture_of_experts(inputs: Any) -> Any:
    return DenseMoE()(bag(inputs, 8, "relu"))


class MonoDense(L.Dense):
    """A layer that rises with each of its inputs."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        x = ops.matmul(inputs, ops.abs(self.kernel)) + self.bias
        convex, concave = ops.split(x, 2, axis=-1)
        return ops.concatenate([ops.elu(convex), -ops.elu(-concave)], axis=-1)


@script(
    "airtai/monotonic-nn airt/_components/mono_dense_layer.py", (NUMBERS,),
    task("regression", lambda: ("mse", ["mse"]), logits=True),
)  # fmt: skip
def monotonic_network(inputs: Any) -> Any:
    x = MonoDense(8)(MonoDense(8)(inputs["numbers"]))
    return L.Dense(1, kernel_constraint=keras.constraints.NonNeg())(x)


class Distiller(keras.Model):
    """A student with a teacher, whose loss Keras calls with both outputs."""

    def __init__(self, student: keras.Model, teacher: keras.Model) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def call(self, inputs: Any) -> Any:
        return self.student(inputs)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, **_: Any) -> Any:
        soft = ops.softmax(self.teacher(x, training=False) / 3)
        own = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        far = keras.losses.kl_divergence(soft, ops.softmax(y_pred / 3))
        return ops.mean(0.1 * own + 0.9 * 9 * far)


@script(
    f"{IO}vision/knowledge_distillation.py", (NUMBERS,),
    task("sparse", lambda: (None, [M.SparseCategoricalAccuracy()]), logits=True),
)  # fmt: skip
def knowledge_distillation(inputs: Any) -> Any:
    students = (keras.Model(inputs, L.Dense(4)(deep(inputs["numbers"], n))) for n in (4, 16))
    return Distiller(*students)
