"""What benchmarks train, and how they time it: through `harness.Trainer` alone."""

from typing import Any

import harness
from benchmarks.peers.protocol import DROPOUT, HIDDEN_UNITS, NUM_TOKENS
from harness.quiet import quiet_import
from harness.timeline import Timeline

with quiet_import():
    from harness.model.network import default_network

tutorial_network = default_network(
    hidden_units=HIDDEN_UNITS, dropout=DROPOUT, num_tokens=NUM_TOKENS, num_classes=2
)
"""The network of `harness train`, in the tutorial's sizes: 505,201 parameters."""


def timed_fit(
    trainer: harness.Trainer, rows: harness.Examples, *, epochs: int, **options: Any
) -> tuple[float, float]:
    """Trains some more epochs, without compilation and without opening and closing files.

    Args:
        trainer: trains.
        rows: the same object each time, so that the rows stay on the device.
        epochs, options: of `Trainer.fit`.

    Returns:
        Seconds within the windows of training steps; and outside of them, until every record has
        been written.
    """
    timeline = Timeline()
    trainer.fit(rows, epochs=epochs, timeline=timeline, **options)
    stages = timeline.stages
    return stages["training"], stages["waiting for files, start of the feed"]
