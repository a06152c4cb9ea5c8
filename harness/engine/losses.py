"""Loss and hits of single rows, from logits.

Letters: B rows, K classes.
"""

import tensorflow as tf


def row_losses(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each row, float32 [B].

    Args:
        labels: int32 [B], the class of each row.
        logits: float32 [B, 1] for two classes (sigmoid) or [B, K] (softmax).
    """
    if logits.shape[1] == 1:
        return tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.cast(labels, tf.float32), logits=logits[:, 0]
        )
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def row_hits(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1.0 where the likeliest class is the row's, else 0.0: float32 [B]. Arguments as above.

    Two classes: class 1 is taken where its probability is above 0.5, as in Keras's BinaryAccuracy.
    """
    if logits.shape[1] == 1:
        taken = tf.cast(logits[:, 0] > 0, tf.int32)
    else:
        taken = tf.argmax(logits, axis=1, output_type=tf.int32)
    return tf.cast(taken == labels, tf.float32)
