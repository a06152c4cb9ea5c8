"""Rows of several inputs, and what a replica's share of a batch holds of them, row by row."""

from typing import Literal, NamedTuple

import numpy as np

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.feed.batch import Columns
from harness.feed.plan import Plan
from tests.harness.random_sets import random_sets

Labels = Literal["classes", "numbers", "matrix", "ragged", "none"]


def random_examples(
    rng: np.random.Generator,
    *,
    rows: int,
    labels: Labels = "classes",
    num_tokens: int = 50,
    longest: int = 12,
    weights: bool = True,
    unique: bool = False,
    id_weights: bool = False,
) -> Examples:
    """Draws rows with two ragged inputs, `words` and `tags`, of which the second may have weights,
    and a dense one, `numbers`."""
    words, tags, many = (
        random_sets(
            rng, rows=rows, num_tokens=limit, longest=longest, unique=unique, weighted=weighted
        )
        for limit, weighted in ((num_tokens, False), (7, id_weights), (5, False))
    )
    made: dict[Labels, np.ndarray | RaggedSets | None] = {
        "classes": rng.integers(0, 2, rows, dtype=np.int32),
        "numbers": rng.random(rows, np.float32),
        "matrix": rng.integers(0, 2, [rows, 5]),
        "ragged": many.unique(),
        "none": None,
    }
    return Examples(
        inputs={
            "words": words,
            "numbers": rng.normal(size=[rows, 3]).astype(np.float32),
            "tags": tags,
        },
        labels=made[labels],
        weights=rng.random(rows, np.float32) if weights else None,
        name="random",
    )


class ExpectedShare(NamedTuple):
    """The rows of a share."""

    ragged: dict[str, list[list[int]]]
    """The ids of each row."""
    id_weights: dict[str, list[float]]
    """The weights of all ids."""
    dense: dict[str, np.ndarray]


def expected_share(
    columns: Columns, plan: Plan, *, epoch: int, step: int, replica: int
) -> ExpectedShare:
    """Returns a replica's share in a step of an epoch; if the batch has no row for it, the batch's
    first row."""
    first = step * plan.batch_size
    batch = plan.order(epoch)[first : first + plan.batch_size]
    # The first replicas get one row more where they do not divide the batch.
    each, more = divmod(len(batch), plan.replicas)
    start = replica * each + min(replica, more)
    rows = batch[start : start + each + (replica < more)]
    rows = rows if rows.size else batch[:1]
    return ExpectedShare(
        ragged={
            name: [sets.row(int(row)).tolist() for row in rows]
            for name, sets in columns.ragged.items()
        },
        id_weights={
            name: sets.take(rows).weights.tolist()
            for name, sets in columns.ragged.items()
            if sets.weights is not None
        },
        dense={name: array[rows] for name, array in columns.dense.items()},
    )
