"""TensorBoard's pages on a run besides its curves, as its own server answers."""

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from google.protobuf import text_format

from harness.run.observers.tensorboard import TensorBoardObserver
from harness.run.records import Choice, Spread
from harness.run.stretches import joined
from tests.harness.run.observers.samples import (
    GRAPH,
    choices,
    epoch,
    inspection,
    run_start,
    summary,
    window,
)
from tests.harness.run.observers.tensorboard_app import TensorBoardApp

METRICS = {"utilization_percent": 55.0, "memory_used_bytes": 3 * 2**29, "power_watts": 250.0}


def write_run(folder: Path, *, num_gpus: int = 0, **changes: Any) -> None:
    devices = tuple(f"/GPU:{index}" for index in range(num_gpus))
    telemetry = {
        f"gpu/{index}/{name}": Spread(mean=mean + 10 * index, min=0.0, max=mean, num_samples=3)
        for index in range(num_gpus)
        for name, mean in METRICS.items()
    }
    if num_gpus:
        telemetry["host/cpu_percent"] = Spread(mean=50.0, min=0.0, max=90.0, num_samples=3)
    trained = window(80, telemetry=telemetry)
    stretch = dataclasses.replace(joined(None, trained), learning_rate=0.001)
    observer = TensorBoardObserver(folder)
    observer.tell(run_start(folder, devices=devices or ("/CPU:0",), **changes))
    gpus = [{"utilization_percent": 55.0 + 10 * index} for index in range(num_gpus)]
    for record in (trained, stretch, epoch(80), summary(gpus=gpus)):
        observer.tell(record)
    if num_gpus:
        observer.tell(inspection(80))
    observer.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> TensorBoardApp:
    """Writes two runs below one folder; returns TensorBoard's pages on them."""
    folder = tmp_path_factory.mktemp("runs")
    chosen = choices(precision=Choice(name="mixed_float16", why="asked <| for"))
    write_run(folder / "a", num_gpus=2)
    write_run(folder / "b", num_gpus=12, choices=chosen)
    return TensorBoardApp(folder)


def charts(app: TensorBoardApp, run: str) -> dict[str, dict[str, list[str]]]:
    """Returns the tags in each chart of the Custom Scalars page, by category and title."""
    drawn: dict[str, dict[str, list[str]]] = {}
    for category in app.get("custom_scalars/layout")["category"]:
        for chart in category["chart"]:
            (pattern,) = chart["multiline"]["tag"]
            answer = app.get("custom_scalars/scalars", run=run, tag=pattern)
            assert answer["regex_valid"]
            tags = list(answer["tag_to_events"])
            drawn.setdefault(category["title"], {})[chart["title"]] = tags
    return drawn


def test_charts_are_in_three_categories_once_for_all_runs(app: TensorBoardApp) -> None:
    assert charts(app, "a") == {
        "Learning": {
            "loss": ["train/loss", "validation/loss", "test/loss"],
            "accuracy": ["train/accuracy", "validation/accuracy", "test/accuracy"],
            "learning rate": ["train/learning_rate"],
            "gradient norm": ["train/gradient_norm"],
        },
        "Throughput": {
            "examples/s": ["throughput/examples_per_second"],
            "step time, ms": ["throughput/step_time_ms"],
            "data wait, share of the time": ["throughput/data_wait_fraction"],
        },
        "GPUs": {
            "utilization, %": [f"~gpu/{index}/utilization_percent" for index in range(2)],
            "memory, GiB": [f"~gpu/{index}/memory_used_gib" for index in range(2)],
            "power, W": [f"~gpu/{index}/power_watts" for index in range(2)],
        },
    }
    assert [len(tags) for tags in charts(app, "b")["GPUs"].values()] == [12, 12, 12]


def test_no_chart_is_without_data_before_and_after_a_resume(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    drawn = charts(TensorBoardApp(tmp_path), "run")
    assert list(drawn["Learning"]) == ["loss", "accuracy", "learning rate"]
    assert "GPUs" not in drawn
    observer = TensorBoardObserver(tmp_path / "run")
    observer.tell(run_start(tmp_path / "run", start_step=80))
    observer.tell(inspection(160))
    observer.close()
    drawn = charts(TensorBoardApp(tmp_path), "run")
    assert list(drawn["Learning"]) == ["loss", "accuracy", "learning rate", "gradient norm"]
    assert list(drawn) == ["Learning", "Throughput"]


def table(app: TensorBoardApp, tag: str) -> dict[str, list[str]]:
    """Returns the cells behind the first of each row of a table on the Text page."""
    (entry,) = app.get("text/text", run="b", tag=tag)
    rows = re.findall(r"<tr>(.*?)</tr>", entry["text"], re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", html.unescape(row)) for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_settings_and_environment_are_tables(app: TensorBoardApp) -> None:
    assert set(app.get("text/tags")["b"]) == {"run/environment", "run/settings"}
    settings = table(app, "run/settings")
    assert list(settings)[:4] == ["what", "task", "replicas", "precision"]
    assert settings["what"] == ["value", "why"]
    assert settings["precision"] == ["mixed_float16", "asked <| for"]
    assert settings["model.hidden_units"] == ["50 50 50", ""]
    assert settings["epochs"] == ["2", ""]
    assert "execution.precision" not in settings
    environment = table(app, "run/environment")
    assert environment["what"] == ["value"]
    assert environment["versions.tensorflow"] == ["2.21.0"]
    assert environment["host.cpus"] == ["2"]
    assert "precision.name" not in environment


def test_hparams_begin_with_what_decides_throughput(app: TensorBoardApp) -> None:
    experiment, rows = app.hparams("STATUS_SUCCESS", also="batch_size")
    shown = [info["displayName"] for info in experiment["hparamInfos"]]
    leading = ["batch size", "precision", "implementation", "replicas", "learning rate"]
    assert shown[:5] == leading
    assert "hidden units" in shown[5:]
    assert len(set(shown)) == len(shown)
    figures = ["examples/s", "step ms", "GPU utilization, %", "test accuracy", "test loss"]
    assert [info["displayName"] for info in experiment["metricInfos"]][:5] == figures
    assert sorted(row["hparams"]["2 precision"] for row in rows) == ["float32", "mixed_float16"]
    assert sorted(row["name"].split()[0] for row in rows) == ["a", "b"]
    for row in rows:
        # Programs that read event files find settings by their own names.
        assert row["hparams"]["1 batch_size"] == row["hparams"]["batch_size"] == 500
        assert row["hparams"]["5 learning_rate"] == 0.001
        assert row["hparams"]["hidden_units"] == "50 50 50"
        assert row["metrics"]["test/accuracy"] == pytest.approx(0.885)
        assert row["metrics"]["~summary/examples_per_second"] == 62_500.0
        assert row["metrics"]["~summary/step_time_ms"] == 8.0
        mean = 60.0 if row["name"].startswith("a") else 110.0
        assert row["metrics"]["~summary/gpu_utilization_percent"] == mean


def test_the_graph_has_every_layer_with_its_inputs(app: TensorBoardApp) -> None:
    assert app.get("graphs/info")["a"]["run_graph"]
    graph = tf.compat.v1.GraphDef()
    text_format.Parse(app.text("graphs/graph", run="a"), graph)
    assert graph.node == GRAPH.node
