"""Random cases that the trainer and `keras.Model.fit` train, with results that must be equal."""
