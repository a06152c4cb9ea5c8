"""`harness evaluate`: a saved model on a data set's test rows."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.checks import require, require_count
from harness.data.options import DataConfig, SourceConfig
from harness.errors import InputError, printable
from harness.files import json_text
from harness.quiet import quiet_import

OF_RUN = "run"
"""Names the data that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a saved model on the test rows of its run's data (--data run), or of other data."""

    model: str
    """Path to a .keras file, to a run folder that holds one, or to a checkpoint of a run."""

    data: SourceConfig = field(default_factory=lambda: SourceConfig(data=OF_RUN))

    batch_size: int = 500
    """Rows per step."""

    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        require_count("--batch-size", self.batch_size)
        require(
            self.data.data != OF_RUN or self.data == SourceConfig(data=OF_RUN),
            "the data of the run is used with the run's own settings; name other data with --data, "
            "or leave out the flags of the data",
        )


def evaluate(config: EvaluateConfig, console: Console | None = None) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InputError: when there is no such model, or it does not fit the data.
    """
    console = console or Console()
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.data.sources import load_configured
        from harness.environment import warn_of_gpus
    warn_of_gpus(Console(stderr=True))
    saved = load_saved_model(config.model, batch_size=config.batch_size)
    of_run = config.data.data == OF_RUN
    data = load_configured(saved.data() if of_run else DataConfig(**vars(config.data)))
    if data.num_tokens > saved.num_tokens:
        raise InputError(
            f"{data.name} has ids below {data.num_tokens}, but {saved.path} knows those below "
            f"{saved.num_tokens}; load the data as for its training, as with --num-words"
        )
    found = saved.trainer.evaluate(data.test)
    loss = found.pop("loss")
    if config.json:
        tested = {f"test_{name}": value for name, value in found.items()}
        print(json_text({**tested, "test_loss": loss, "examples": data.test.num_rows}))
        return 0
    table = Table(show_header=False)
    table.add_row("model", _text(str(saved.path)))
    table.add_row("data", _text(data.name))
    for name, value in found.items():
        table.add_row(f"test {name}", f"{value:.4f}")
    table.add_row("test loss", f"{loss:.4f}")
    table.add_row("rows", f"{data.test.num_rows:,}")
    console.print(table)
    return 0


def _text(name: str) -> Text:
    """A name, without markup."""
    return Text(printable(name, one_line=True), overflow="fold")
