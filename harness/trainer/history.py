"""What `fit` returns: Keras's history, which can plot itself."""

from typing import Any

import keras
import numpy as np

from harness.base.checks import require_extra
from harness.base.errors import in_python


class History(keras.callbacks.History):
    """Keras's history: `history["loss"]`, `history["val_loss"]`, ... have a number per epoch."""

    history: dict[str, list[float]]

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._validated: list[int] = []
        """The epochs that were evaluated: `validation_freq` may leave some out."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if "val_loss" in logs:
            self._validated.append(epoch)

    def plot(self) -> Any:
        """Returns a matplotlib figure with the curves of the loss and each metric, over the epochs.
        A notebook shows it; `figure.savefig("curves.png")` writes it to a file.

        Raises:
            InputError: when matplotlib, of the extra `report`, is not installed.
        """
        with in_python():
            require_extra("report", "a plot", "matplotlib")
        from matplotlib import pyplot

        names = [name for name in self.history if not name.startswith("val_")]
        figure = pyplot.figure(figsize=(4.5 * max(1, len(names)), 3.5), layout="constrained")
        for place, name in enumerate(names, 1):
            axes = figure.add_subplot(1, len(names), place, xlabel="epoch", title=name)
            epochs = np.array(self.epoch) + 1
            axes.plot(epochs, self.history[name], marker=".", label="training")
            if (held_out := f"val_{name}") in self.history:
                epochs = np.array(self._validated) + 1
                axes.plot(epochs, self.history[held_out], marker="o", label="validation")
            axes.legend()
        pyplot.close(figure)  # or a notebook would show it twice
        return figure
