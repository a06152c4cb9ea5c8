"""Runs as rows of TensorBoard's HParams page, to be sorted, filtered and compared there.

The messages are the plugin's own (tensorboard/plugins/hparams/summary_v2.py). It reads the columns
from any one run's `experiment` and each row from a run's start and end of session.
"""

from collections.abc import Mapping
from typing import Any

from tensorboard.plugins.hparams import api_pb2, summary, summary_v2

from harness.records import RunStart

Setting = bool | int | float | str

METRICS = {
    "validation/accuracy": "test accuracy",
    "throughput/examples_per_second": "examples/s",
    "validation/loss": "test loss",
    "throughput/data_wait_fraction": "data wait",
}
"""Tags of a training run and what the page calls them; it takes the last value of each."""

FIRST = ("batch_size", "hidden_units", "implementation", "learning_rate", "precision")
"""Settings that are columns without being asked for: the page shows five, and sorts those that are
marked as differing between runs before the others."""

_TYPES = {
    bool: api_pb2.DATA_TYPE_BOOL,
    int: api_pb2.DATA_TYPE_FLOAT64,
    float: api_pb2.DATA_TYPE_FLOAT64,
    str: api_pb2.DATA_TYPE_STRING,
}


def run_settings(run: RunStart) -> dict[str, Setting]:
    """The settings that matter of a training run."""
    model, optimizer = run.config["model"], run.config["optimizer"]
    return {
        "batch_size": run.batch_size,
        "learning_rate": run.learning_rate,
        "precision": run.precision.name,
        "implementation": run.implementation.name,
        "hidden_units": " ".join(map(str, model["hidden_units"])),
        "dropout": " ".join(map(str, model["dropout"])),
        "activation": model["activation"],
        "optimizer": optimizer["optimizer"].lower(),
        "epochs": run.epochs,
        "replicas": run.replicas,
        "input": run.input.name,
        "steps_per_dispatch": run.steps_per_dispatch.name,
        "seed": run.config["execution"]["seed"],
        "dataset": run.dataset.name,
    }


def experiment(settings: Mapping[str, Setting], metrics: Mapping[str, str]) -> Any:
    """The page's columns, for settings of these types with any value."""
    # No domains: the page would filter by them, and hide runs with other values than this one's.
    return summary.experiment_pb(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=_TYPES[type(value)], differs=name in FIRST)
            for name, value in settings.items()
        ],
        metric_infos=[
            summary_v2.Metric(tag, display_name=shown).as_proto() for tag, shown in metrics.items()
        ],
    )


def session_start(settings: Mapping[str, Setting], *, name: str, start_seconds: float) -> Any:
    """A row's settings.

    Args:
        settings: by name.
        name: of the row; runs of one name would share it.
        start_seconds: since the epoch.
    """
    return summary_v2.hparams_pb(settings, trial_id=name, start_time_secs=start_seconds)


def session_end(*, done: bool, end_seconds: float) -> Any:
    """That a row's run is over: `done`, or failed."""
    status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
    return summary.session_end_pb(status, end_time_secs=end_seconds)
