"""scikit-learn: MLPClassifier on a sparse CSR matrix. It has no dropout, which favours it."""

import numpy as np
import scipy.sparse
import threadpoolctl
from sklearn.neural_network import MLPClassifier

from benchmarks.peers import protocol


def main() -> None:
    task = protocol.load()
    threadpoolctl.threadpool_limits(task.threads)
    ones = np.ones(len(task.values), np.float32)
    matrix = scipy.sparse.csr_matrix(
        (ones, task.values, task.row_splits), shape=(task.num_rows, protocol.NUM_TOKENS)
    )
    classifier = MLPClassifier(
        hidden_layer_sizes=protocol.HIDDEN_UNITS,
        batch_size=task.batch_size,
        learning_rate_init=protocol.LEARNING_RATE,
        alpha=0.0,
        random_state=0,
    )

    def train_epoch() -> float:
        # This is one pass over all rows in mini-batches, which it shuffles by itself.
        classifier.partial_fit(matrix, task.labels, classes=[0, 1])
        return classifier.loss_

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
