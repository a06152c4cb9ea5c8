"""The tutorial's `fit` on its dense float64 matrix, from the first step of an epoch to its last.

What `fit` does before the first step, converting the whole matrix, is left out, which favours it.
"""

from benchmarks.peers import protocol

TASK = protocol.load()

from benchmarks.peers.tutorial import StepClock, build_model, vectorize  # noqa: E402


def main() -> None:
    sequences = [
        TASK.values[start:stop]
        for start, stop in zip(TASK.row_splits[:-1], TASK.row_splits[1:], strict=True)
    ]
    matrix = vectorize(sequences, protocol.NUM_TOKENS)
    labels = TASK.labels.astype("float32")
    model = build_model()

    def train_epoch() -> tuple[float, float]:
        clock = StepClock()
        history = model.fit(
            matrix, labels, epochs=1, batch_size=TASK.batch_size, verbose=0, callbacks=[clock]
        )
        return history.history["loss"][0], clock.epoch_seconds()[0]

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
