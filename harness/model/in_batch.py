"""The loss of two-tower models: a softmax over the items of a batch.

Letters: B rows, D units.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from harness.base.checks import require

_FAR = -1e9  # added to the scores of other rows that have the row's own item


@keras.saving.register_keras_serializable(package="harness")
class InBatchSoftmax(keras.layers.Layer):
    """The log-probability of each row's item among the items of all rows of the batch:
    `log_softmax(users @ items.T / temperature)[i, i]`, as in Yi et al., "Sampling-Bias-Corrected
    Neural Modeling for Large Corpus Item Recommendations", 2019, section 3, without the correction
    of the sampling bias. Its negative is the loss:
    `harness.Task("regression", loss=lambda y, log_p: -log_p, metrics=[])`.

    It is called with a list of tensors and returns [B, 1]. The tensors are

    - the vectors of the users, [B, D];
    - the vectors of the items, [B, D];
    - the ids of the items, [B] or [B, 1], optional: a row's own item in other rows of the batch is
      then no negative of it.
    """

    def __init__(self, *, temperature: float = 1.0, **kwargs: Any) -> None:
        """Args:
        temperature: the number that divides the products; a lower one makes the softmax sharper.
        **kwargs: arguments of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        require(temperature > 0, f"temperature is {temperature}; give a number above 0")
        self.temperature = temperature

    def call(self, inputs: list[Any]) -> Any:
        """Returns the log-probabilities, [B, 1], from the tensors that the class describes."""
        users, items, *numbers = inputs
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        require(
            replicas == 1,
            f"{self.name} compares all rows of a batch, which {replicas} replicas divide; set "
            "replicas=1",
        )
        # In float32, since a quotient of 16 bits may overflow.
        scores = ops.cast(ops.matmul(users, ops.transpose(items)), "float32") / self.temperature
        if numbers:
            own = ops.reshape(numbers[0], (-1,))
            again = ops.cast(ops.equal(own[:, None], own), "float32") - ops.eye(ops.shape(own)[0])
            scores += _FAR * again
        return ops.diagonal(ops.log_softmax(scores, axis=1))[:, None]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
