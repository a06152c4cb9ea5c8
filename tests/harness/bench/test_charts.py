"""A sweep as a plot, and as TensorBoard's HParams page, as the plugin itself reads it."""

import dataclasses
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from harness.bench.charts import draw, write_hparams
from tests.harness.bench.samples import CELL, results, row

LARGE = dataclasses.replace(CELL, batch_size=4096)
NATIVE = dataclasses.replace(CELL, implementation="native")


@pytest.mark.parametrize(
    "rows",
    [
        [row(CELL, 0)],
        [row(CELL, 0), row(LARGE, 0, 3e5), row(LARGE, 1, 4e5)],
        [row(CELL, 0), row(LARGE, 0, None), row(NATIVE, 0)],
        [row(CELL, 0, None)],
    ],
)
def test_it_is_drawn(rows: list, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw(results(*rows), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


def test_every_measured_cell_is_a_run_with_its_figures(tmp_path: Path) -> None:
    native = dataclasses.replace(CELL, implementation="native")
    too_large = dataclasses.replace(CELL, batch_size=8192)
    sweep = results(row(CELL, 0, 1e5), row(CELL, 1, 2e5), row(native, 0, 3e5))
    write_hparams(dataclasses.replace(sweep, rows=(*sweep.rows, row(too_large, 0, None))), tmp_path)

    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 10, "hparams": 10})
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = Context(TBContext(data_provider=provider, logdir=str(tmp_path)))
    request = RequestContext()
    experiment = get_experiment.Handler(request, context, "", api_pb2.GetExperimentRequest()).run()
    assert {h.name for h in experiment.hparam_infos} == set(dataclasses.asdict(CELL))
    assert [h.name for h in experiment.hparam_infos if h.differs] == ["implementation"]
    tags = {metric.name.tag for metric in experiment.metric_infos}
    assert {"throughput/step_time_ms_p99", "host/rss_bytes", "compile_seconds"} < tags
    groups = list_session_groups.Handler(
        request,
        context,
        "",
        api_pb2.ListSessionGroupsRequest(
            start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS]
        ),
    ).run()
    rates = {
        group.hparams["implementation"].string_value: next(
            m.value for m in group.metric_values if m.name.tag == "throughput/examples_per_second"
        )
        for group in groups.session_groups
    }
    # What `auto` came to, not `auto`.
    assert rates == {"gather": pytest.approx(1.5e5), "native": pytest.approx(3e5)}
    assert all(g.hparams["steps_per_dispatch"].number_value == 20 for g in groups.session_groups)
    assert all(g.hparams["batch_size"].number_value == 500 for g in groups.session_groups)


def test_without_a_measured_cell_there_is_no_run(tmp_path: Path) -> None:
    write_hparams(results(row(CELL, 0, None)), tmp_path)
    assert list(tmp_path.iterdir()) == []
