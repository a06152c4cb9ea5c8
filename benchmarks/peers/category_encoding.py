"""Keras CategoryEncoding in a tf.data map, and `fit`, as Keras's documentation proposes."""

from benchmarks.peers import protocol

TASK = protocol.load()

import keras  # noqa: E402 - TensorFlow reads its thread count when it is imported
import tensorflow as tf  # noqa: E402

from benchmarks.peers.tutorial import build_model  # noqa: E402


def main() -> None:
    encode = keras.layers.CategoryEncoding(protocol.NUM_TOKENS, output_mode="multi_hot")
    rows = tf.RaggedTensor.from_row_splits(TASK.values, TASK.row_splits, validate=False)
    dataset = (
        tf.data.Dataset.from_tensor_slices((rows, TASK.labels.astype("float32")))
        .shuffle(TASK.num_rows)
        .ragged_batch(TASK.batch_size)
        # Padding with an id that every row holds does not change the row's set.
        .map(
            lambda ids, labels: (encode(ids.to_tensor(default_value=1)), labels),
            num_parallel_calls=TASK.threads,
        )
        .prefetch(2)
    )
    model = build_model()

    def train_epoch() -> float:
        return model.fit(dataset, epochs=1, verbose=0).history["loss"][0]

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
