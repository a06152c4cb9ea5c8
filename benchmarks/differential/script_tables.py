"""Models from public scripts: tables of columns, and matrix factorization; see scripts.py."""

from typing import Any

import keras
import numpy as np
from keras import layers as L  # noqa: N812
from keras import ops

from benchmarks.differential.rows import Part
from benchmarks.differential.scripts import (
    CROSS,
    IDS,
    IO,
    NUMBERS,
    TABLE,
    M,
    O,
    bag,
    binary,
    column,
    columns,
    deep,
    embedded,
    script,
    task,
)

L2 = keras.regularizers.L2(1e-3)
RATING = task("regression", lambda: (
    keras.losses.MeanSquaredError(), [M.RootMeanSquaredError()]
), logits=True)  # fmt: skip


def blocks(x: Any, *units: int) -> Any:
    for number in units:
        x = L.Dropout(0.0)(L.ReLU()(L.BatchNormalization()(L.Dense(number)(x))))
    return x


SPARSE = task("sparse", lambda: (
    keras.losses.SparseCategoricalCrossentropy(), [M.SparseCategoricalAccuracy()]
))  # fmt: skip


@script(f"{IO}structured_data/wide_deep_cross_networks.py", CROSS, SPARSE)
def wide_and_deep(inputs: Any) -> Any:
    wide = L.BatchNormalization()(bag(inputs["tags"], 8))
    x = blocks(L.concatenate([*embedded(inputs, 3), inputs["numbers"]]), 8, 8)
    return L.Dense(4, activation="softmax")(L.concatenate([wide, x]))


@script(f"{IO}structured_data/wide_deep_cross_networks.py", TABLE, SPARSE)
def deep_and_cross(inputs: Any) -> Any:
    x = cross = L.concatenate([*embedded(inputs, 3), inputs["numbers"]])
    for _ in range(2):
        cross = x * L.Dense(x.shape[-1])(cross) + cross
    both = L.concatenate([L.BatchNormalization()(cross), blocks(x, 8, 8)])
    return L.Dense(4, activation="softmax")(both)


def _gated_residual(x: Any, units: int) -> Any:
    y = L.Dropout(0.0)(L.Dense(units)(L.Dense(units, activation="elu")(x)))
    y = L.Dense(units)(y) * L.Dense(units, activation="sigmoid")(y)
    x = x if x.shape[-1] == units else L.Dense(units)(x)
    return L.LayerNormalization()(x + y)


@script(
    f"{IO}structured_data/classification_with_grn_and_vsn.py", TABLE,
    task("binary", lambda: (
        keras.losses.BinaryCrossentropy(), [M.BinaryAccuracy(name="accuracy")]
    ), weighs_rows=True),
)  # fmt: skip
def gated_residual_variable_selection(inputs: Any) -> Any:
    numbers = [L.Dense(8)(inputs["numbers"][:, i : i + 1]) for i in range(3)]
    parts = [*embedded(inputs, 8), *numbers]
    share = L.Dense(len(parts), activation="softmax")(_gated_residual(L.concatenate(parts), 8))
    each = ops.stack([_gated_residual(part, 8) for part in parts], axis=1)
    selected = ops.squeeze(ops.matmul(ops.expand_dims(share, 1), each), axis=1)
    return L.Dense(1, activation="sigmoid")(selected)


def _mlp(units: int, activation: str, normalization: Any) -> Any:
    return keras.Sequential([normalization, L.Dense(units, activation=activation), L.Dropout(0.0)])


@script(
    f"{IO}structured_data/tabtransformer.py", TABLE,
    task("binary", lambda: (
        keras.losses.BinaryCrossentropy(), [M.BinaryAccuracy(name="accuracy")]
    )),
    lambda: O.AdamW(0.02, weight_decay=0.5),
)  # fmt: skip
def tab_transformer(inputs: Any) -> Any:
    x = ops.stack(embedded(inputs, 4), axis=1)
    x += L.Embedding(4, 4)(ops.arange(4))
    for _ in range(2):
        y = L.MultiHeadAttention(num_heads=2, key_dim=4, dropout=0.0)(x, x)
        y = L.LayerNormalization(epsilon=1e-6)(L.Add()([y, x]))
        z = _mlp(4, "gelu", L.LayerNormalization(epsilon=1e-6))(y)
        x = L.LayerNormalization(epsilon=1e-6)(L.Add()([z, y]))
    numbers = L.LayerNormalization(epsilon=1e-6)(inputs["numbers"])
    x = L.concatenate([L.Flatten()(x), numbers])
    return L.Dense(1, activation="sigmoid")(_mlp(8, "selu", L.BatchNormalization())(x))


class DecisionTree(keras.Model):
    """A tree whose inner nodes send a row to both sides, in shares."""

    def __init__(self, depth: int, features: int, used: float) -> None:
        super().__init__()
        self.depth = depth
        chosen = np.random.choice(features, int(features * used), replace=False)
        self.mask = ops.convert_to_tensor(np.eye(features)[chosen], dtype="float32")
        self.pi = self.add_weight(shape=[2**depth, 4], initializer="random_normal")
        self.decision = L.Dense(2**depth, activation="sigmoid")

    def call(self, features: Any) -> Any:
        rows = ops.shape(features)[0]
        features = ops.matmul(features, ops.transpose(self.mask))
        decisions = ops.expand_dims(self.decision(features), axis=2)
        decisions = L.concatenate([decisions, 1 - decisions], axis=2)
        mu, begin = ops.ones([rows, 1, 1]), 1
        for level in range(self.depth):
            mu = ops.tile(ops.reshape(mu, [rows, -1, 1]), (1, 1, 2))
            mu, begin = mu * decisions[:, begin : begin + 2**level], begin + 2**level
        leaves = ops.reshape(mu, [rows, 2**self.depth])
        return ops.matmul(leaves, keras.activations.softmax(self.pi))


class DecisionForest(keras.Model):
    """The mean of several trees."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.ensemble = [DecisionTree(2, features, 0.5) for _ in range(3)]

    def call(self, inputs: Any) -> Any:
        outputs = ops.zeros([ops.shape(inputs)[0], 4])
        for tree in self.ensemble:
            outputs += tree(inputs)
        return outputs / len(self.ensemble)


FOREST = f"{IO}structured_data/deep_neural_decision_forests.py"


@script(FOREST, TABLE, SPARSE)
def neural_decision_forest(inputs: Any) -> Any:
    x = L.BatchNormalization()(L.concatenate([*embedded(inputs, 3), inputs["numbers"]]))
    return DecisionForest(x.shape[1])(x)


@script(
    f"{IO}structured_data/imbalanced_classification.py", (NUMBERS,),
    task("binary", lambda: ("binary_crossentropy", [
        M.FalseNegatives(name="fn"), M.FalsePositives(name="fp"), M.TrueNegatives(name="tn"),
        M.TruePositives(name="tp"), M.Precision(name="precision"), M.Recall(name="recall"),
    ]), class_weight={0: 0.02, 1: 0.5}),
)  # fmt: skip
def imbalanced_classification(inputs: Any) -> Any:
    x = L.Dropout(0.0)(deep(inputs["numbers"], 16, 16))
    return L.Dense(1, activation="sigmoid")(L.Dropout(0.0)(deep(x, 16)))


@script(
    "entron/entity-embedding-rossmann models.py", TABLE,
    task("regression", lambda: ("mae", []), of_score=lambda s: 1 / (1 + np.exp(-s))),
)  # fmt: skip
def entity_embeddings(inputs: Any) -> Any:
    parts = [L.Reshape([4])(x) for x in embedded(inputs, 4)]
    x = L.Concatenate()([*parts, L.Dense(1)(inputs["numbers"][:, :1])])
    x = deep(x, 16, 8)
    return L.Activation("sigmoid")(L.Dense(1)(x))


# Matrix factorization and two towers.

MOVIES = (columns("fields", 4),)


class RecommenderNet(keras.Model):
    """A product of embeddings, and biases."""

    def __init__(self) -> None:
        super().__init__()
        own = {"embeddings_initializer": "he_normal", "embeddings_regularizer": L2}
        self.user, self.movie = L.Embedding(IDS, 4, **own), L.Embedding(IDS, 4, **own)
        self.user_bias, self.movie_bias = L.Embedding(IDS, 1), L.Embedding(IDS, 1)

    def call(self, inputs: Any) -> Any:
        user, movie = inputs[:, 0], inputs[:, 1]
        x = L.Dot(axes=1)([self.user(user), self.movie(movie)])
        return ops.sigmoid(x + self.user_bias(user) + self.movie_bias(movie))


@script(
    f"{IO}structured_data/collaborative_filtering_movielens.py", (columns("", 2),),
    task("binary", lambda: (keras.losses.BinaryCrossentropy(), []), soft=True),
)  # fmt: skip
def collaborative_filtering(inputs: Any) -> Any:
    return RecommenderNet()


@script(
    f"{IO}keras_recipes/memory_efficient_embeddings.py", MOVIES,
    task("regression", lambda: (
        keras.losses.MeanSquaredError(), [M.MeanAbsoluteError(name="mae")]
    ), logits=True),
)  # fmt: skip
def memory_efficient_embeddings(inputs: Any) -> Any:
    user, movie = column(inputs, 0), column(inputs, 1)
    user = L.Embedding(4, 8)(user // 4) * L.Embedding(4, 8)(user % 4)  # quotient and remainder
    parts = []  # a common part of the movies with a larger embedding than the rest
    for start, units in ((0, 8), (5, 4)):
        part = L.Embedding(5, units)(ops.clip(movie - start, 0, 4))
        part = part if units == 8 else L.Dense(8)(part)
        is_own = ops.cast(ops.equal(movie // 5, start // 5), "float32")
        parts.append(part * ops.expand_dims(is_own, 1))
    return keras.activations.sigmoid(L.Dot(axes=1)([user, sum(parts)])) * 5


@script(
    f"{IO}structured_data/movielens_recommendations_transformers.py",
    (columns("history", 4), columns("target"), Part(name="ratings", features=4)),
    task("regression", lambda: (
        keras.losses.MeanSquaredError(), [M.MeanAbsoluteError()]
    ), logits=True),
    lambda: O.Adagrad(0.05),
)  # fmt: skip
def behavior_sequence_transformer(inputs: Any) -> Any:
    movies = L.Embedding(IDS, 6)
    history = movies(inputs["history"]) + L.Embedding(4, 6)(ops.arange(4))
    history = L.Multiply()([history, ops.expand_dims(inputs["ratings"], -1)])
    x = L.concatenate([history, movies(inputs["target"])], axis=1)
    y = L.Dropout(0.0)(L.MultiHeadAttention(num_heads=3, key_dim=6, dropout=0.0)(x, x))
    y = L.LayerNormalization()(L.Add()([x, y]))
    z = L.Dropout(0.0)(L.Dense(6)(L.LeakyReLU()(y)))
    x = L.Flatten()(L.LayerNormalization()(L.Add()([y, z])))
    for units in (8, 4):
        x = L.Dropout(0.0)(L.LeakyReLU()(L.BatchNormalization()(L.Dense(units)(x))))
    return L.Dense(1)(x)


class FeatureCross(keras.Model):
    """Embeddings, a cross of low rank, and a deep network."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = [L.Embedding(IDS, 4) for _ in range(4)]
        self.down, self.up = L.Dense(3, use_bias=False), L.Dense(16)
        self.hidden = [L.Dense(8, activation="relu") for _ in range(2)]
        self.out = L.Dense(1)

    def call(self, inputs: Any) -> Any:
        found = [table(column(inputs, i)) for i, table in enumerate(self.tables)]
        x = ops.concatenate(found, axis=1)
        x = x * self.up(self.down(x)) + x
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)


@script(f"{IO}keras_rs/dcn.py", MOVIES, RATING, lambda: O.AdamW(0.02))
def feature_cross(inputs: Any) -> Any:
    return FeatureCross()


@script(f"{IO}keras_rs/dlrm.py", MOVIES, RATING, lambda: O.AdamW(0.02))
def dlrm(inputs: Any) -> Any:
    found = ops.stack(embedded(inputs, 4), axis=1)
    pairs = ops.reshape(ops.matmul(found, ops.transpose(found, (0, 2, 1))), (-1, 16))
    below = np.flatnonzero(np.tri(4, k=-1))
    return L.Dense(1)(deep(ops.take(pairs, below, axis=1), 8, 8))


@script("hexiangnan/neural_collaborative_filtering NeuMF.py", MOVIES, binary())
def neumf(inputs: Any) -> Any:
    user, item = inputs["fields"][:, :1], inputs["fields"][:, 1:2]
    own = {"embeddings_initializer": keras.initializers.RandomNormal(stddev=0.1)}

    def latent(ids: Any) -> Any:
        return L.Flatten()(L.Embedding(IDS, 4, embeddings_regularizer=L2, **own)(ids))

    product = L.Multiply()([latent(user), latent(item)])
    x = L.Concatenate()([latent(user), latent(item)])
    for units in (8, 4):
        x = L.Dense(units, kernel_regularizer=L2, activation="relu")(x)
    x = L.Concatenate()([product, x])
    return L.Dense(1, activation="sigmoid", kernel_initializer="lecun_uniform")(x)


class InBatchSoftmax(L.Layer):
    """The losses of rows whose items are told from those of the other rows."""

    def call(self, inputs: Any) -> Any:
        user, item, number = inputs
        popularity = ops.log((ops.cast(number[:, 0], "float32") + 1) / 55)
        scores = ops.matmul(user / 0.5, ops.transpose(item)) - popularity
        labels = ops.eye(ops.shape(scores)[0])
        losses = keras.losses.categorical_crossentropy(labels, scores, from_logits=True)
        return ops.expand_dims(losses, 1)


def _of_outputs(y: Any, outputs: Any) -> Any:
    return ops.mean(outputs)


@script(
    "shenweichen/DeepMatch deepmatch/layers/core.py", (columns("item"), CROSS[0], NUMBERS),
    task("regression", lambda: (_of_outputs, []), logits=True),
)  # fmt: skip
def two_towers_in_batch_softmax(inputs: Any) -> Any:
    user = deep(L.concatenate([bag(inputs["tags"], 4), inputs["numbers"]]), 8, 4)
    item = deep(L.Flatten()(L.Embedding(IDS, 4)(inputs["item"])), 8, 4)
    user, item = (L.UnitNormalization()(tower) for tower in (user, item))
    return InBatchSoftmax()([user, item, inputs["item"]])
