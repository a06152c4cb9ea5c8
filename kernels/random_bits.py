"""Random bits by a hash, for masks and samples of compiled steps."""

import tensorflow as tf

from kernels.multi_hot.table_rules import scrambled

_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: spreads neighbouring indices over all bits


@tf.function(autograph=False)  # some hundred operations, traced once for all layers
def random_bits(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns a hash of each element's index and the seed, integers [2], as uint32 of `shape`,
    whose product is at most 2**31 - 1. Of two keys derived from the seed, one enters before the
    first round of the hash and one between its rounds, so that masks of two seeds are not shifts of
    one another."""
    low = tf.cast(seed & tf.constant(0xFFFFFFFF, seed.dtype), tf.uint32)
    first = scrambled(low[0] + scrambled(low[1]))
    second = scrambled(first + _GOLDEN)
    index = tf.cast(tf.range(tf.reduce_prod(shape)), tf.uint32)
    bits = scrambled(index * _GOLDEN + first, between=second)
    return tf.reshape(bits, shape)
