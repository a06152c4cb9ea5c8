"""`python -m harness.cli.measured`: a process that `harness bench` measures. It trains what
`harness train` would with the same settings; harness/bench/worker.py has the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.bench.worker import serve
from harness.cli.train import TrainConfig, trainer_of
from harness.decoding import from_mapping

if TYPE_CHECKING:
    from harness.data.ragged import RaggedSets
    from harness.trainer import Trainer


def build(settings: Mapping[str, Any]) -> tuple[Trainer, RaggedSets]:
    """The trainer and its rows, from settings of `TrainConfig` by their bare names.

    Raises:
        InputError: when a setting is unknown or wrong, or there is no such data.
    """
    from harness.data.sources import load_configured

    config = from_mapping(TrainConfig, settings, where="the benchmark's settings")
    data = load_configured(config.data)
    return trainer_of(config, data), data.train


if __name__ == "__main__":
    serve(build)
