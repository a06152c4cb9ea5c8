import functools

import tensorflow as tf

from kernels.multi_hot import multi_hot_dense
from tests.kernels.multi_hot.xla_contract import XlaContract


class TestGather(XlaContract):
    implementation = "gather"

    def test_a_served_program_has_no_operation_of_xla(self) -> None:
        product = functools.partial(multi_hot_dense, implementation="gather")
        any_number = tf.TensorSpec([None], tf.int32)
        traced = tf.function(product).get_concrete_function(
            tf.TensorSpec([11, 3]), any_number, any_number
        )
        assert "Xla" not in str(traced.graph.as_graph_def())
