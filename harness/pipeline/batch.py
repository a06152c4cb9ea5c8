"""The batches of one dispatch, as one replica gets them.

Letters: S steps of a dispatch, b rows of a replica's share of a batch, C capacity.
"""

from typing import NamedTuple

import tensorflow as tf


class Batches(NamedTuple):
    """S batches of fixed shape, so that one compiled program serves every dispatch."""

    values: tf.Tensor
    """uint16 or int32 [S, C]: the ids of a batch's rows one after another, then padding."""
    row_splits: tf.Tensor
    """int32 [S, b + 1]: where each row begins in `values`; what follows the last is ignored."""
    labels: tf.Tensor
    """int32 [S, b]: class of each row; 0 in padding rows."""
    num_rows: tf.Tensor
    """int32 [S]: real rows of the *global* batch; replica r's row j is real if r*b + j is below."""
