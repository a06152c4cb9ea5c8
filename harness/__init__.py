"""A training harness for models whose input is a set of token ids.

    data = harness.load("imdb.npz")
    trainer = harness.Trainer(model, batch_size=500)
    trainer.fit(data.train, validation=data.test, epochs=2, run_dir="runs/mine")

Everything is loaded on first use: importing this package imports neither TensorFlow nor Keras.
"""

import importlib
import inspect
import sys
from contextlib import nullcontext, suppress
from dataclasses import is_dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.base.quiet import quiet_import

if TYPE_CHECKING:
    from harness.base.errors import DivergenceError as DivergenceError
    from harness.base.errors import InputError as InputError
    from harness.data.containers import as_examples as as_examples
    from harness.data.examples import Examples as Examples
    from harness.data.ragged import RaggedSets as RaggedSets
    from harness.data.sources import Dataset as Dataset
    from harness.data.sources import load as load
    from harness.model.in_batch import InBatchSoftmax as InBatchSoftmax
    from harness.model.layers import HashDropout as HashDropout
    from harness.model.layers import MultiHotDense as MultiHotDense
    from harness.model.saved import load_model as load_model
    from harness.task.multinomial import Multinomial as Multinomial
    from harness.task.ranking import NDCGAtK as NDCGAtK
    from harness.task.ranking import RecallAtK as RecallAtK
    from harness.task.task import Task as Task
    from harness.trainer.settings import RunOptions as RunOptions
    from harness.trainer.settings import Settings as Settings
    from harness.trainer.trainer import Trainer as Trainer

_NAMES = {
    "base.errors": ("DivergenceError", "InputError"),
    "data.containers": ("as_examples",),
    "data.examples": ("Examples",),
    "data.ragged": ("RaggedSets",),
    "data.sources": ("Dataset", "load"),
    "model.in_batch": ("InBatchSoftmax",),
    "model.layers": ("HashDropout", "MultiHotDense"),
    "model.saved": ("load_model",),
    "task.multinomial": ("Multinomial",),
    "task.ranking": ("NDCGAtK", "RecallAtK"),
    "task.task": ("Task",),
    "trainer.settings": ("RunOptions", "Settings"),
    "trainer.trainer": ("Trainer",),
}
_PLACES = {name: f"harness.{place}" for place, names in _NAMES.items() for name in names}
_WITH_TENSORFLOW = ("harness.model.", "harness.task.", "harness.trainer.trainer")
"""The beginnings of the places whose import is quiet."""

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    with quiet_import() if _PLACES[name].startswith(_WITH_TENSORFLOW) else nullcontext():
        value = getattr(importlib.import_module(_PLACES[name]), name)
    if isinstance(value, type) and is_dataclass(value):  # the source describes its fields
        with suppress(OSError):
            vars(value)["__init__"].__doc__ = inspect.getsource(value).partition("    def ")[0]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _TellKeras:
    """Lists the layers among the classes that Keras loads models with, once Keras is imported.
    Python asks it for the place of every module; it knows of none."""

    def find_spec(self, *_: Any) -> None:
        """None."""
        saving: Any = sys.modules.get("keras.saving")
        classes: dict[str, Any] = getattr(saving, "get_custom_objects", dict)()
        for name in ("HashDropout", "InBatchSoftmax", "MultiHotDense"):
            late = SimpleNamespace(from_config=partial(_from_config, name))
            classes.setdefault(f"harness>{name}", late)  # until the layers are imported


def _from_config(name: str, config: Any) -> Any:
    return __getattr__(name).from_config(config)


sys.meta_path.insert(0, _TellKeras())
sys.meta_path[0].find_spec("", None)  # Keras may have been imported before
