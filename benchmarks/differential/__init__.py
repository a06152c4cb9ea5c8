"""Random cases, trained by the trainer and by `keras.Model.fit`: they must come out equal."""
