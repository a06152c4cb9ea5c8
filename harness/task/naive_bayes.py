"""Naive Bayes: a linear model that one pass over the train rows makes, to compare others with.

Letters: V ids, K classes.
"""

from typing import Any

import numpy as np

from harness.data.examples import Examples
from harness.task.measures import Quality, labels_of

_MOST_IDS = 2**20  # ids to train on; of more, rows at equal distances are taken
_MOST_SCORES = 2**24  # the most classes times ids of the rows to predict for
_MOST_ELEMENTS = 2**23  # the most elements of a table [K, V]


def naive_bayes(train: Examples, rows: Examples, into: Quality) -> Quality | None:
    """Returns `into`, measures of `rows`, with the predictions of naive Bayes trained on `train`:
    each class against all others, by which ids a row has (the log-count ratios of Wang and Manning,
    ACL 2012, https://aclanthology.org/P12-2018). None if there are no ids, or too many of them and
    of classes for a fraction of a second."""
    num_classes = into.num_classes
    given: Any = train.labels  # of a single output, as `into` has measures
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
    asked = slice(1 if into.kind == "binary" else 0, None)  # of two classes, one decides
    prior = np.log(inside + 1) - np.log(len(seen) - inside + 1)
    scores = np.tile(prior[asked].astype(np.float32), [rows.num_rows, 1])
    for name, sets in train.ragged.items():
        # The rows may have ids that no train row may have.
        among, held_out = sets.take(seen), rows.ragged[name]
        num_tokens = max(sets.num_tokens, held_out.num_tokens)
        of_class = among.take(where)
        places = np.repeat(classes, of_class.lengths) * num_tokens + of_class.values
        counts = np.bincount(places, minlength=num_classes * num_tokens).reshape(num_classes, -1)
        total = np.bincount(among.values, minlength=num_tokens)
        row_of_id = np.repeat(np.arange(rows.num_rows), held_out.lengths)
        for column, count in enumerate(counts[asked]):
            here, there = count + 1, total - count + 1
            ratio = np.log(here / here.sum()) - np.log(there / there.sum())
            scores[:, column] += np.bincount(row_of_id, ratio[held_out.values], rows.num_rows)
    into.add(scores if into.kind == "multi_class" else (scores > 0).astype(np.float32))
    return into
