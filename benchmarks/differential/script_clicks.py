"""Models from public scripts: click rates, and several outputs; see scripts.py."""

from itertools import combinations
from typing import Any

import keras
from keras import layers as L  # noqa: N812
from keras import ops

from benchmarks.differential.scripts import (
    CROSS,
    IDS,
    NUMBERS,
    TABLE,
    O,
    bag,
    binary,
    columns,
    deep,
    embedded,
    script,
    script_of_outputs,
    task,
)

CTR = "shenweichen/DeepCTR deepctr/models/"
CLICK = binary("binary_crossentropy")
L2 = keras.regularizers.L2(1e-3)


class Prediction(L.Layer):
    """A sigmoid with a bias."""

    def build(self, shape: Any) -> None:
        self.bias = self.add_weight(shape=(1,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        return ops.reshape(ops.sigmoid(inputs + self.bias), (-1, 1))


def linear(inputs: Any) -> Any:
    numbers = L.Dense(1, use_bias=False, kernel_regularizer=L2)(inputs["numbers"])
    return bag(inputs["tags"], 1, use_bias=False, kernel_regularizer=L2) + numbers


def logit(x: Any) -> Any:
    return L.Dense(1, use_bias=False)(x)


def vectors(inputs: Any) -> list[Any]:
    """Returns an embedding [B, 1, 4] of each column."""
    found = embedded(inputs, 4, embeddings_regularizer=L2)
    return [ops.expand_dims(vector, 1) for vector in found]


def flat(found: list[Any], inputs: Any) -> Any:
    return L.Concatenate()([*map(L.Flatten(), found), inputs["numbers"]])


def stacked(found: list[Any]) -> Any:
    return L.Concatenate(axis=1)(found)


def interactions(x: Any) -> Any:
    """Returns half the square of the sum without the sum of the squares, [B, K]."""
    return 0.5 * (ops.square(ops.sum(x, axis=1)) - ops.sum(ops.square(x), axis=1))


def products(found: list[Any]) -> Any:
    """Returns the products of all pairs of vectors, [B, pairs, K]."""
    pairs = combinations(found, 2)
    left, right = zip(*pairs, strict=True)
    return stacked(list(left)) * stacked(list(right))


@script(f"{CTR}deepfm.py", CROSS, CLICK)
def deepfm(inputs: Any) -> Any:
    found = vectors(inputs)
    fm = ops.sum(interactions(stacked(found)), axis=1, keepdims=True)
    return Prediction()(linear(inputs) + fm + logit(deep(flat(found, inputs), 8, 4)))


@script(f"{CTR}afm.py", CROSS, CLICK)
def attentional_fm(inputs: Any) -> Any:
    x = products(vectors(inputs))
    hidden = L.Dense(4, activation="relu", kernel_regularizer=L2)(x)
    share = ops.softmax(logit(hidden), axis=1)
    return Prediction()(linear(inputs) + logit(L.Dropout(0.0)(ops.sum(share * x, axis=1))))


@script(f"{CTR}nfm.py", CROSS, CLICK)
def neural_fm(inputs: Any) -> Any:
    x = L.Concatenate()([interactions(stacked(vectors(inputs))), inputs["numbers"]])
    return Prediction()(linear(inputs) + logit(deep(x, 8, 4)))


class OuterProduct(L.Layer):
    """Products of pairs of vectors by a matrix for each pair."""

    def call(self, inputs: Any) -> Any:
        left, right = inputs
        return ops.einsum("bpi,jpi,bpj->bp", left, self.kernel, right)

    def build(self, shapes: Any) -> None:
        (_, pairs, units), _ = shapes
        self.kernel = self.add_weight(shape=(units, pairs, units), initializer="glorot_uniform")


@script(f"{CTR}pnn.py", CROSS, CLICK)
def product_based_network(inputs: Any) -> Any:
    found = vectors(inputs)
    inner = L.Flatten()(ops.sum(products(found), axis=2, keepdims=True))
    left, right = zip(*combinations(found, 2), strict=True)
    outer = OuterProduct()([stacked(list(left)), stacked(list(right))])
    x = L.Concatenate()([flat(found, inputs), inner, outer])
    return Prediction()(logit(deep(x, 8, 4)))


def _bilinear(found: list[Any]) -> Any:
    return stacked([L.Dense(4, use_bias=False)(a) * b for a, b in combinations(found, 2)])


@script(f"{CTR}fibinet.py", CROSS, CLICK)
def fibinet(inputs: Any) -> Any:
    found = vectors(inputs)
    x = stacked(found)
    share = deep(ops.mean(x, axis=-1), 1, 4)
    excited = ops.split(x * ops.expand_dims(share, 2), 4, axis=1)
    both = [L.Flatten()(_bilinear(excited)), L.Flatten()(_bilinear(found)), inputs["numbers"]]
    return Prediction()(linear(inputs) + logit(deep(L.Concatenate()(both), 8, 4)))


@script(f"{CTR}autoint.py", CROSS, CLICK)
def autoint(inputs: Any) -> Any:
    found = vectors(inputs)
    x = stacked(found)
    for _ in range(2):
        query, key, value, rest = (L.Dense(8, use_bias=False)(x) for _ in range(4))
        heads = (ops.stack(ops.split(part, 2, axis=2)) for part in (query, key, value))
        query, key, value = heads
        share = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))))
        mixed = ops.concatenate(ops.split(ops.matmul(share, value), 2), axis=-1)
        x = ops.relu(ops.squeeze(mixed, axis=0) + rest)
    both = L.Concatenate()([L.Flatten()(x), deep(flat(found, inputs), 8, 4)])
    return Prediction()(logit(both) + linear(inputs))


@script(f"{CTR}xdeepfm.py", CROSS, CLICK)
def xdeepfm(inputs: Any) -> Any:
    found = vectors(inputs)
    x = hidden = stacked(found)
    kept = []
    for is_last in (False, True):
        pairs = ops.einsum("bhd,bmd->bdhm", x, hidden)
        pairs = ops.reshape(pairs, (-1, 4, x.shape[1] * hidden.shape[1]))
        every = ops.transpose(L.Conv1D(6, 1, activation="relu")(pairs), (0, 2, 1))
        hidden, direct = (None, every) if is_last else ops.split(every, 2, axis=1)
        kept.append(direct)
    cin = ops.sum(ops.concatenate(kept, axis=1), axis=-1)
    return Prediction()(linear(inputs) + logit(deep(flat(found, inputs), 8, 4)) + logit(cin))


class CrossMix(L.Layer):
    """Crosses of low rank, mixed by a gate."""

    def build(self, shape: Any) -> None:
        new = {"initializer": "glorot_normal", "regularizer": L2}
        self.down = [self.add_weight(shape=(2, shape[-1], 3), **new) for _ in range(2)]
        self.middle = [self.add_weight(shape=(2, 3, 3), **new) for _ in range(2)]
        self.up = [self.add_weight(shape=(2, 3, shape[-1]), **new) for _ in range(2)]
        self.gates = [L.Dense(1, use_bias=False) for _ in range(2)]
        for gate in self.gates:
            gate.build(shape)

    def call(self, inputs: Any) -> Any:
        x = inputs
        for down, middle, up in zip(self.down, self.middle, self.up, strict=True):
            experts = []
            for expert in range(2):
                low = ops.tanh(ops.matmul(x, down[expert]))
                low = ops.tanh(ops.matmul(low, middle[expert]))
                experts.append(inputs * ops.matmul(low, up[expert]))
            share = ops.softmax(ops.stack([gate(x) for gate in self.gates], axis=1), axis=1)
            x += ops.squeeze(ops.matmul(ops.stack(experts, axis=2), share), axis=2)
        return x


@script(f"{CTR}dcnmix.py", CROSS, CLICK)
def dcn_mix(inputs: Any) -> Any:
    x = flat(vectors(inputs), inputs)
    both = L.Concatenate()([CrossMix()(x), deep(x, 8, 4)])
    return Prediction()(logit(both) + linear(inputs))


@script(f"{CTR}mlr.py", CROSS, CLICK)
def mixed_logistic_regression(inputs: Any) -> Any:
    regions = L.Activation("softmax")(L.Concatenate()([linear(inputs) for _ in range(3)]))
    learners = L.Concatenate()([L.Activation("sigmoid")(linear(inputs)) for _ in range(3)])
    return L.Dot(axes=-1)([regions, learners])


class Dice(L.Layer):
    """An activation by the distribution of its inputs."""

    def build(self, shape: Any) -> None:
        self.norm = L.BatchNormalization(center=False, scale=False, epsilon=1e-9)
        self.norm.build(shape)
        self.alpha = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, inputs: Any, training: Any = None) -> Any:
        share = ops.sigmoid(self.norm(inputs, training=training))
        return self.alpha * (1 - share) * inputs + share * inputs


class AttentionPooling(L.Layer):
    """A sum of the vectors of a history, weighted by what they have to do with an item."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True
        self.score = keras.Sequential([L.Dense(8), Dice(), L.Dense(4), Dice(), L.Dense(1)])

    def build(self, shapes: Any) -> None:
        self.score.build((None, shapes[1][1], 4 * shapes[1][2]))

    def call(self, inputs: Any, mask: Any = None, training: Any = None) -> Any:
        query, keys = inputs
        query = ops.repeat(query, keys.shape[1], axis=1)
        joined = ops.concatenate([query, keys, query - keys, query * keys], axis=-1)
        score = self.score(joined, training=training)
        score = ops.where(ops.expand_dims(mask[-1], -1), score, 0.0)
        return ops.sum(score * keys, axis=1, keepdims=True)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return None


@script(
    f"{CTR}sequence/din.py", (columns("item"), columns("history", 5), *TABLE),
    CLICK,
)  # fmt: skip
def deep_interest_network(inputs: Any) -> Any:
    items = L.Embedding(IDS, 4, mask_zero=True, embeddings_regularizer=L2)
    query, keys = items(inputs["item"]), items(inputs["history"])
    interest = AttentionPooling()([query, keys])
    x = L.Flatten()(L.Concatenate()([*vectors(inputs), interest]))
    x = L.Concatenate()([x, inputs["numbers"]])
    return Prediction()(logit(deep(x, 8, 4)))


# Several outputs.

TWO = {"ctr": CLICK, "ctcvr": CLICK}


def tower(x: Any, name: str | None = None) -> Any:
    prediction = Prediction(name=name)
    return prediction(logit(deep(x, 4)))


def experts(x: Any, gated: Any, number: int) -> Any:
    """Returns a mixture of experts by a gate of an input of its own."""
    share = L.Dense(number, use_bias=False, activation="softmax")(gated)
    return ops.sum(ops.expand_dims(share, -1) * x, axis=1)


@script_of_outputs(f"{CTR}multitask/esmm.py", CROSS, TWO)
def esmm(inputs: Any) -> Any:
    x = flat(vectors(inputs), inputs)
    click, sale = tower(x, "ctr"), tower(x)
    return [click, L.Multiply(name="ctcvr")([click, sale])]


@script_of_outputs(f"{CTR}multitask/sharedbottom.py", CROSS, TWO)
def shared_bottom(inputs: Any) -> Any:
    x = deep(flat(vectors(inputs), inputs), 8, 8)
    return [tower(x, name) for name in TWO]


@script_of_outputs(
    "drawbridge/keras-mmoe census_income_demo.py", (NUMBERS,),
    dict.fromkeys(("income", "marital"), task(
        "categorical", lambda: ("binary_crossentropy", ["accuracy"]), classes=3
    )),
)  # fmt: skip
def mmoe(inputs: Any) -> Any:
    x = inputs["numbers"]
    every = ops.stack([L.Dense(4, activation="relu")(x) for _ in range(3)], axis=1)
    hidden = [L.Dense(8, activation="relu")(experts(every, x, 3)) for _ in range(2)]
    names = ("income", "marital")
    pairs = zip(names, hidden, strict=True)
    return [L.Dense(3, name=name, activation="softmax")(x) for name, x in pairs]


@script_of_outputs(f"{CTR}multitask/ple.py", CROSS, TWO)
def progressive_layered_extraction(inputs: Any) -> Any:
    levels = [flat(vectors(inputs), inputs)] * 3  # of both tasks, and what they share
    for is_last in (False, True):
        first, second, shared = (deep(x, 6) for x in levels)
        groups = [[first, shared], [second, shared], [first, second, shared]]
        pairs = list(zip(groups, levels, strict=True))[: 2 if is_last else 3]
        levels = [experts(ops.stack(group, 1), x, len(group)) for group, x in pairs]
    return [tower(x, name) for name, x in zip(TWO, levels, strict=True)]


@script_of_outputs(
    "Deep Learning with Python, 3rd edition, chapter 7", (*CROSS[:1], NUMBERS),
    {
        "priority": task("regression", lambda: ("mean_squared_error", ["mean_absolute_error"])),
        "department": task("sparse", lambda: ("sparse_categorical_crossentropy", ["accuracy"])),
    },
)  # fmt: skip
def customer_tickets(inputs: Any) -> Any:
    x = L.Dense(8, activation="relu")(L.Concatenate()([bag(inputs["tags"], 8), inputs["numbers"]]))
    priority = L.Dense(1, activation="sigmoid", name="priority")(x)
    return [priority, L.Dense(4, activation="softmax", name="department")(x)]


@script_of_outputs(
    "keras-team/keras-io guides/functional_api.py", (*CROSS[:1], NUMBERS),
    {
        "priority": task("binary", lambda: (
            keras.losses.BinaryCrossentropy(from_logits=True), []
        )),
        "department": task("categorical", lambda: (
            keras.losses.CategoricalCrossentropy(from_logits=True), []
        )),
    },
    lambda: O.RMSprop(0.01), {"priority": 1.0, "department": 0.2},
)  # fmt: skip
def ticket_ranker(inputs: Any) -> Any:
    x = L.concatenate([bag(inputs["tags"], 8), inputs["numbers"]])
    return {
        "priority": L.Dense(1, name="priority")(x),
        "department": L.Dense(4, name="department")(x),
    }
