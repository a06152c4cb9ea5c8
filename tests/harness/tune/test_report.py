"""What a search leaves: settings that are read back, and rows as TensorBoard's own plugin reads
them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from harness.tune.report import described, outcome, write_best, write_hparams
from harness.tune.study import Trial


def trial(number: int, **changes: Any) -> Trial:
    epochs = [{"accuracy": 0.5, "loss": 0.7}, {"accuracy": 0.75, "loss": 0.8}]
    usual: dict[str, Any] = {
        "values": {"learning_rate": 1e-3 * number, "width": 8 * number, "ngrams": 2},
        "status": "complete",
        "epochs": epochs,
        "best_epoch": 2,
        "value": 0.75,
        "seconds": 1.5,
        "note": "",
    }
    return Trial(number=number, **usual | changes)


def test_settings_are_read_back(tmp_path: Path) -> None:
    settings = {
        "data": '/a "folder"\\with\x7f\n\ttabs, ä and 🎬',
        "learning_rate": 1e-30,
        "hidden_units": [8, 16],
        "dropout": [],
        "unique": False,
        "num_words": None,
    }
    path = tmp_path / "best.toml"
    write_best(path, settings, comment="the best")
    assert path.read_text().startswith("# the best\n")
    assert tomllib.loads(path.read_text()) == settings | {"num_words": "None"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "accuracy 0.7500 in epoch 2 of 2"),
        ({"status": "pruned"}, "pruned; accuracy 0.7500 in epoch 2 of 2"),
        ({"status": "diverged", "epochs": [], "value": None}, "diverged"),
        ({"status": "failed", "note": "no memory"}, "failed: no memory"),
    ],
)
def test_a_line_for_a_trial(changes: dict[str, Any], line: str) -> None:
    assert outcome(trial(1, **changes), "accuracy") == line
    assert described({"learning_rate": 0.00123456, "num_tokens": 30_000}) == (
        "learning rate 0.001235, num tokens 30,000"
    )


def test_every_trial_is_a_row(tmp_path: Path) -> None:
    lost = {"status": "failed", "epochs": [], "best_epoch": None, "value": None}
    write_hparams([trial(1), trial(2, status="pruned"), trial(3, **lost)], tmp_path)
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 10, "hparams": 10})
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    request = RequestContext()
    experiment = get_experiment.Handler(request, context, "", api_pb2.GetExperimentRequest()).run()
    assert {h.name: h.differs for h in experiment.hparam_infos} == {
        "learning_rate": True,
        "width": True,
        "ngrams": False,
    }
    both = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    asked = api_pb2.ListSessionGroupsRequest(slice_size=10, allowed_statuses=both)
    groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
    found = {
        int(group.hparams["width"].number_value): {m.name.tag: m.value for m in group.metric_values}
        for group in groups
    }
    assert set(found) == {8, 16, 24}
    assert found[8] == {
        "validation/accuracy": 0.75,
        "validation/loss": pytest.approx(0.8),
        "best/objective": 0.75,
        "best/epoch": 2.0,
        "seconds": 1.5,
    }
    assert found[24] == {"seconds": 1.5}
    curve = multiplexer.GetAccumulator("trial_0001").Tensors("validation/loss")
    assert [event.step for event in curve] == [1, 2]
