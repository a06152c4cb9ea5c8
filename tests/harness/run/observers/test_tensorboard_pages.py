"""TensorBoard's pages on a run besides its curves, as its own server answers."""

import dataclasses
import html
import json
import re
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format

from harness.run.observers.tensorboard import TensorBoardObserver
from harness.run.records import Choice, Spread
from tests.harness.run.observers.samples import GRAPH, choices, epoch, run_start, summary, window
from tests.harness.run.observers.tensorboard_app import TensorBoardApp


def write_run(folder: Path, **changes: object) -> None:
    observer = TensorBoardObserver(folder)
    observer.tell(run_start(folder, devices=("GPU:0", "GPU:11"), **changes))
    spread = Spread(mean=55.0, min=10.0, max=90.0, num_samples=3)
    telemetry = {f"gpu/{index}/utilization_percent": spread for index in (0, 11)}
    observer.tell(window(80, telemetry=telemetry))
    observer.tell(epoch(80))
    observer.tell(summary())
    observer.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> TensorBoardApp:
    """Writes two runs below one folder; returns TensorBoard's pages on them."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a")
    write_run(
        folder / "b", choices=choices(precision=Choice(name="mixed_float16", why="asked <| for"))
    )
    return TensorBoardApp(folder)


def test_the_layout_opens_on_the_charts_once_for_all_runs(app: TensorBoardApp) -> None:
    (category,) = app.get("custom_scalars/layout")["category"]
    assert category["title"] == "Training"
    assert not category.get("closed", False)
    drawn = []
    for chart in category["chart"]:
        tags: list[str] = []
        for pattern in chart["multiline"]["tag"]:
            answer = app.get("custom_scalars/scalars", run="b", tag=pattern)
            assert answer["regex_valid"]
            tags += answer["tag_to_events"]
        drawn.append(tags)
    assert drawn == [
        ["train/loss", "validation/loss", "test/loss"],
        ["train/accuracy", "validation/accuracy", "test/accuracy"],
        ["throughput/examples_per_second"],
        ["throughput/data_wait_fraction"],
        ["gpu/0/utilization_percent", "gpu/11/utilization_percent"],
    ]


def test_settings_and_environment_are_shown_as_in_config_json(app: TensorBoardApp) -> None:
    assert set(app.get("text/tags")["b"]) == {"run/environment", "run/settings"}
    shown = {}
    for tag in ("run/settings", "run/environment"):
        (entry,) = app.get("text/text", run="b", tag=tag)
        assert entry["step"] == 0
        (code,) = re.findall(r"<pre><code>(.*)</code></pre>", entry["text"], re.DOTALL)
        shown[tag] = json.loads(html.unescape(code))
    settings, environment = shown["run/settings"], shown["run/environment"]
    assert settings["execution"]["precision"] == "mixed_float16"
    assert settings["model"]["hidden_units"] == [50, 50, 50]
    assert settings["epochs"] == 2
    assert environment["precision"] == {"name": "mixed_float16", "why": "asked <| for"}
    assert environment["versions"]["tensorflow"] == "2.21.0"
    assert environment["host"]["cpus"] == 2


def test_hparams_have_a_row_a_run_with_its_settings_and_last_figures(app: TensorBoardApp) -> None:
    experiment, rows = app.hparams("STATUS_SUCCESS")
    first = experiment["hparamInfos"][0]
    assert (first["name"], first["differs"]) == ("precision", True)
    assert sorted(row["hparams"]["precision"] for row in rows) == ["float32", "mixed_float16"]
    assert sorted(row["name"].split()[0] for row in rows) == ["a", "b"]
    for row in rows:
        assert row["hparams"]["batch_size"] == 500
        assert row["hparams"]["learning_rate"] == 0.001
        assert row["hparams"]["hidden_units"] == "50 50 50"
        assert row["metrics"]["validation/accuracy"] == pytest.approx(0.885)
        assert row["metrics"]["throughput/examples_per_second"] == 62_500.0


def test_the_graph_has_every_layer_with_its_inputs(app: TensorBoardApp) -> None:
    assert app.get("graphs/info")["a"]["run_graph"]
    graph = tf.compat.v1.GraphDef()
    text_format.Parse(app.text("graphs/graph", run="a"), graph)
    assert graph.node == GRAPH.node


def test_a_resumed_runs_row_is_the_resumed_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for start_step, epochs in ((0, 2), (160, 3)):
        observer = TensorBoardObserver(folder)
        start = run_start(tmp_path, start_step=start_step)
        observer.tell(dataclasses.replace(start, epochs=epochs))
        observer.tell(window(start_step + 20))
        observer.tell(epoch(start_step + 20))
        observer.tell(summary(steps=start_step + 160, interrupted=start_step > 0))
        observer.close()
    _, (row,) = TensorBoardApp(tmp_path).hparams("STATUS_FAILURE")
    assert row["hparams"]["epochs"] == 3
