"""Random cases that are trained by the trainer and by `keras.Model.fit`, and must come out equal."""
