"""`harness evaluate`: a saved network on a data set's held-out rows."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.commands.saved_model import SavedModel, load_saved_model
from harness.config import EvaluateConfig
from harness.data.ragged import RaggedSets
from harness.data.sources import load_configured
from harness.engine.devices import Devices, set_up_devices
from harness.engine.evaluation import Evaluator
from harness.errors import InputError
from harness.files import json_text
from harness.pipeline.plan import evaluation_plan
from harness.pipeline.stream import Stream
from harness.records import Compilation, Evaluation

_STEPS_PER_DISPATCH = 20


def evaluate(config: EvaluateConfig, console: Console | None = None) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InputError: when there is no such model, or it does not fit the data.
    """
    console = console or Console()
    devices = set_up_devices(1)  # before the model, which already takes their memory
    saved = load_saved_model(config.model)
    dataset = load_configured(config.data)
    _check_fit(saved, dataset.test)
    evaluation, compilation = _evaluate(saved, dataset.test, devices, batch_size=config.batch_size)
    if config.json:
        figures = {
            "test_accuracy": evaluation.accuracy,
            "test_loss": evaluation.loss,
            "examples": evaluation.examples,
        }
        print(json_text(figures))
        return 0
    table = Table(show_header=False)
    table.add_row("model", Text(str(saved.path), overflow="fold"))  # no markup in it
    table.add_row("data", Text(dataset.name, overflow="fold"))
    table.add_row("test accuracy", f"{evaluation.accuracy:.4f}")
    table.add_row("test loss", f"{evaluation.loss:.4f}")
    table.add_row("rows", f"{evaluation.examples:,}")
    table.add_row("compilation", f"{compilation.seconds:.2f} s")
    console.print(table)
    return 0


def _evaluate(
    saved: SavedModel, rows: RaggedSets, devices: Devices, *, batch_size: int
) -> tuple[Evaluation, Compilation]:
    """Evaluates; also what was compiled for it."""
    batch_size = min(batch_size, rows.num_rows)
    plan = evaluation_plan(
        rows.lengths,
        batch_size=batch_size,
        replicas=1,
        steps_per_dispatch=min(_STEPS_PER_DISPATCH, -(-rows.num_rows // batch_size)),
    )
    evaluator = Evaluator(saved.logits, Stream(rows, plan), devices)
    evaluation, compilation = evaluator.run(step=0, epoch=0)
    assert compilation is not None, "the first run compiles"
    return evaluation, compilation


def _check_fit(saved: SavedModel, rows: RaggedSets) -> None:
    if rows.num_tokens > saved.num_tokens:
        raise InputError(
            f"the data has ids below {rows.num_tokens} but {saved.path} knows those below "
            f"{saved.num_tokens}; give the --data, --num-words or --synthetic-tokens that it was "
            "trained with"
        )
    if rows.num_classes > saved.num_classes:
        raise InputError(
            f"the data has {rows.num_classes} classes but {saved.path} tells {saved.num_classes} "
            "apart; name the model that was trained on this kind of data"
        )
