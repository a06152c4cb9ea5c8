"""`harness export`: exports a saved model in the format of another program."""

from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from harness.base.quiet import quiet_import


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a saved model for other programs."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""
    out: str
    """The new file, or for a SavedModel the new folder."""
    format: Literal["saved_model", "onnx", "keras"] = "saved_model"
    """`saved_model`: runs in TensorFlow and TensorFlow Serving, from ids, and from texts where the
    run has a vocabulary. `onnx`: from ids; needs the extra `onnx`. `keras`: Keras's own."""


def export(config: ExportConfig) -> int:
    console = Console()
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.model.export import export_model
        from harness.model.heads import head_of
    saved = load_saved_model(config.model)
    model = saved.trainer.model
    export_model(
        model,
        config.out,
        format=config.format,
        vocabulary=None if saved.kind == "outputs" else saved.vocabulary,
        head=head_of(model, saved.kind),
        from_logits=saved.trainer.task.from_logits,
    )
    console.print(f"exported to {config.out}", soft_wrap=True, markup=False, highlight=False)
    if config.format == "saved_model" and saved.vocabulary is None:
        console.print("note: without vocabulary.json beside the model, it takes ids but no texts")
    return 0
