"""Finding and loading the network that a run saved."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras

from harness.commands.run_folder import MODEL_FILE_NAME
from harness.errors import InputError
from harness.model.layers import MultiHotDense


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A network from a .keras file that `harness train` wrote."""

    path: Path
    probabilities: keras.Model
    logits: keras.Model
    num_tokens: int
    num_classes: int


def load_saved_model(named: str) -> SavedModel:
    """Loads `named`: a .keras file, or a run folder that holds one.

    Raises:
        InputError: when there is none, or it is not one that `harness train` wrote.
    """
    path = Path(named)
    if path.is_dir():
        path = path / MODEL_FILE_NAME
    if not path.is_file():
        raise InputError(f"no model at {path}; name a .keras file or a run folder that holds one")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a .keras file; name one that `harness train` wrote")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise InputError(f"{path} cannot be loaded as a Keras model: {error}") from error
    first = next((la for la in model.layers if isinstance(la, MultiHotDense)), None)
    if first is None or "logits" not in {layer.name for layer in model.layers}:
        raise InputError(
            f"{path} is not a network of this harness: it needs a MultiHotDense layer and one "
            "named 'logits'; name a file that `harness train` wrote"
        )
    logits = model.get_layer("logits")
    return SavedModel(
        path=path,
        probabilities=model,
        logits=keras.Model(model.inputs, logits.output),
        num_tokens=first.num_tokens,
        num_classes=max(2, logits.units),
    )
