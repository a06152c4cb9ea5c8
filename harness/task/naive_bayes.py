"""Naive Bayes: a linear model that one pass over the train rows makes, to compare others with.

Letters: V ids, K classes.
"""

import numpy as np
import numpy.typing as npt

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.task.measures import Quality, labels_of

_MOST_IDS = 2**20  # ids to train on; of more, rows at equal distances are taken
_MOST_SCORES = 2**25  # the most classes times ids of the rows to predict for
_MOST_ELEMENTS = 2**23  # the most elements of a table [K, V]


def naive_bayes(train: Examples, rows: Examples, into: Quality) -> Quality | None:
    """Returns `into`, measures of `rows`, with the predictions of naive Bayes trained on `train`:
    each class against all others, by which ids a row has (the log-count ratios of Wang and Manning,
    ACL 2012, https://aclanthology.org/P12-2018). None if there are no ids, or too many of them and
    of classes for a fraction of a second."""
    num_classes, given = into.num_classes, train.labels
    parts = *train.ragged.values(), *rows.ragged.values()
    size = max([rows.num_rows, *(sets.num_tokens for sets in parts)])
    is_large = num_classes * size > _MOST_ELEMENTS or num_classes * rows.nnz > _MOST_SCORES
    if is_large or not train.ragged or given is None:
        return None
    seen = np.arange(0, train.num_rows, max(1, train.nnz // _MOST_IDS))
    labels = labels_of(given[seen], 0, len(seen), into.kind, num_classes)
    is_multi_label = into.kind == "multi_label"
    where, classes = labels.nonzero() if is_multi_label else (np.arange(len(seen)), labels)
    inside = np.bincount(classes, minlength=num_classes)
    scores = np.empty([rows.num_rows, num_classes], np.float32)
    scores[:] = np.log(inside + 1) - np.log(len(seen) - inside + 1)
    for name, sets in train.ragged.items():
        _add_scores(scores, rows.ragged[name], sets.take(seen), where, classes)
    if into.kind == "binary":
        scores = scores[:, 1:]
    into.add(scores if into.kind == "multi_class" else (scores > 0).astype(np.float32))
    return into


def _add_scores(
    scores: npt.NDArray[np.float32],
    rows: RaggedSets,
    train: RaggedSets,
    where: npt.NDArray[np.int64],
    classes: npt.NDArray[np.int64],
) -> None:
    """Adds the log ratios of the rows' ids, of train rows `where` that are of `classes`."""
    # The rows may have ids that no train row may have.
    num_tokens, num_classes = max(train.num_tokens, rows.num_tokens), scores.shape[1]
    among = train.take(where)
    places = np.repeat(classes, among.lengths) * num_tokens + among.values
    inside = np.bincount(places, minlength=num_classes * num_tokens).reshape(num_classes, -1)
    outside = np.bincount(train.values, minlength=num_tokens) - inside
    row_of_id = np.repeat(np.arange(rows.num_rows), rows.lengths)
    for number in range(num_classes):
        here, there = inside[number] + 1, outside[number] + 1
        ratio = np.log(here / here.sum()) - np.log(there / there.sum())
        scores[:, number] += np.bincount(row_of_id, ratio[rows.values], minlength=rows.num_rows)
