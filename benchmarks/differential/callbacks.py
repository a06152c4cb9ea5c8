"""Random callbacks, and one that records every hook."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras

from benchmarks.differential.draw import Draw

C: Any = keras.callbacks
LOGGED = ("train_batch_end", "test_batch_end", "test_end", "epoch_end", "train_end")
"""The hooks whose logs are compared."""


class Recorder(C.Callback):
    """Records the hooks of a fit, in order, with their logs."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[tuple[str, int | None]] = []
        self.logs: list[tuple[str, dict[str, float]]] = []
        self.seen: list[tuple[int, float, float]] = []
        """The steps done, the learning rate and a sum over the weights at every epoch's end."""

    def _write(self, hook: str, index: int | None, logs: Any) -> None:
        self.hooks.append((hook, index))
        if hook in LOGGED:
            self.logs.append((hook, {k: float(v) for k, v in (logs or {}).items()}))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._write("epoch_end", epoch, logs)
        optimizer = self.model.optimizer
        total = sum(float(abs(weights).sum()) for weights in self.model.get_weights())
        self.seen.append((int(optimizer.iterations), float(optimizer.learning_rate), total))


class BatchRecorder(Recorder):
    """Records the hooks of every batch, too."""


def _writing(hook: str) -> Callable[..., None]:
    def with_index(self: Recorder, index: int, logs: Any = None) -> None:
        self._write(hook, index, logs)

    def without(self: Recorder, logs: Any = None) -> None:
        self._write(hook, None, logs)

    return with_index if "batch" in hook or "epoch" in hook else without


for _hook in ("train_begin", "train_end", "epoch_begin", "test_begin", "test_end"):
    setattr(Recorder, f"on_{_hook}", _writing(_hook))
for _hook in ("train_batch_begin", "train_batch_end", "test_batch_begin", "test_batch_end"):
    setattr(BatchRecorder, f"on_{_hook}", _writing(_hook))


class Decayed(C.Callback):
    """A callback of the user's own that sets weights and the learning rate."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        layer = next(la for la in self.model.layers if la.trainable_weights)
        layer.set_weights([0.9 * weights for weights in layer.get_weights()])
        self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)


class DrawnCallbacks(NamedTuple):
    """Drawn callbacks, which each side makes for itself."""

    words: list[str]
    make: Callable[[Path], list[C.Callback]]  # Makes the callbacks, which write to the given folder
    recorded: str | None  # `epochs` or `batches` if a recorder comes last; None without a recorder


def draw_callbacks(
    draw: Draw, *, validates: bool, metrics: tuple[str, ...], scheduled: bool, averages: bool
) -> DrawnCallbacks:
    """Draws some random callbacks. They monitor one of the metrics, leave the rate of an optimizer
    that is `scheduled` alone, and swap weights only if it `averages` them."""
    start = "val_" if validates else ""
    loss, metric = f"{start}loss", f"{start}{metrics[0]}" if metrics else f"{start}loss"
    monitored = draw.one([loss, metric])
    patience = draw.integer(0, 1)
    every = draw.integer(1, 4)

    def saving(name: str, **how: Any) -> Callable[[Path], C.Callback]:
        name += ".weights.h5"
        return lambda folder: C.ModelCheckpoint(folder / name, save_weights_only=True, **how)

    options: dict[str, Callable[[Path], C.Callback]] = {
        f"EarlyStopping({monitored}, patience={patience}, restore)": lambda _: C.EarlyStopping(
            monitored, patience=patience, restore_best_weights=True
        ),
        f"EarlyStopping({loss}, start_from_epoch=1)": lambda _: C.EarlyStopping(
            loss, start_from_epoch=1, patience=1
        ),
        f"ReduceLROnPlateau({monitored})": lambda _: C.ReduceLROnPlateau(
            monitored, patience=1, factor=0.3, min_delta=0.05
        ),
        "LearningRateScheduler": lambda _: C.LearningRateScheduler(
            lambda epoch, rate: rate * (0.7 if epoch else 1.1)
        ),
        f"SwapEMAWeights({'swap_on_epoch' if every == 1 else ''})": lambda _: C.SwapEMAWeights(
            swap_on_epoch=every == 1
        ),
        f"ModelCheckpoint({monitored}, best)": saving(
            "{epoch:02d}", monitor=monitored, save_best_only=True
        ),
        f"ModelCheckpoint(save_freq={every})": saving("{epoch:02d}-{batch:02d}", save_freq=every),
        "Decayed": lambda _: Decayed(),
    }
    left_out: tuple[str, ...] = ("Reduce", "LearningRate", "Decayed") if scheduled else ()
    left_out += () if averages else ("Swap",)
    names = [name for name in options if not name.startswith(left_out)]
    chosen = draw.some(names, 2) if draw.chance(0.55) else []
    swap = [name for name in names if name.startswith("Swap")]
    if swap and draw.chance(0.6) and swap[0] not in chosen:
        chosen = [*swap, *chosen]
    recorded = draw.weighted({None: 4, "epochs": 3, "batches": 3})
    if recorded:
        chosen = [*chosen, f"recorder of {recorded}"]
    recorder = {"epochs": Recorder, "batches": BatchRecorder}

    def make(folder: Path) -> list[C.Callback]:
        made = [options[name](folder) for name in chosen if name in options]
        return [*made, recorder[recorded]()] if recorded else made

    return DrawnCallbacks(chosen, make, recorded)
