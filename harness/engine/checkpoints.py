"""Checkpoints of everything that a resumed run needs to repeat the uninterrupted one."""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import keras
import numpy as np

from harness.background import Background
from harness.data.archive import Archive
from harness.engine.state import MODEL_PREFIX, State, variables_by_name
from harness.errors import InputError
from kernels.files import opened_folder, replacing

_NUM_KEPT = 2
"""The last one, and one more, should the last turn out to be damaged."""
_PATTERN = re.compile(r"ckpt-(\d+)\.npz")
_STEP = "step"
_Kinds = dict[str, tuple[str, tuple[int, ...]]]
"""Dtypes and shapes, by name."""


class Checkpoints:
    """Saves and restores weights, optimizer, dropout seeds, loss scale and the number of steps.

    A checkpoint is NumPy's npz, with an array for each name of `State.save`. Training goes on while
    it is written, from a copy of the state in host memory. TensorFlow's own take four
    times the processor's time, which on a CPU is the device's, and its asynchronous ones fail with
    Keras's variables.
    """

    def __init__(
        self,
        folder: Path,
        states: Sequence[State],
        background: Background,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        folder: where they live; made at the first save.
        states: of each device; the first one's stands for all.
        background: where they are written.
        check: called before one is written; raises where that would be in vain.
        """
        self._folder = folder
        self._states = states
        self._background = background
        self._check = check
        self._written: Future[None] | None = None

    def save(self, step: int) -> None:
        """Saves the state after `step` optimizer steps, which may change as soon as this returns.

        Raises:
            OSError: naming the file, from `background`: it cannot be written, as on a full disk.
                The folder then holds those before it alone.
        """
        # Who saves faster than the disk takes it waits here, with one copy in memory.
        if self._written is not None:
            self._written.result()
        arrays = self._states[0].save()
        arrays[_STEP] = np.asarray(step, np.int64)
        self._written = self._background.do(functools.partial(self._write, arrays))

    def restore(self) -> int:
        """Restores the last state and returns its number of steps.

        Raises:
            InputError: when there is no checkpoint, or it is damaged, or does not fit the network.
        """
        saved = self._saved()
        if not saved:
            raise InputError(
                f"{self._folder} holds no checkpoint to resume from; train with --overwrite to "
                "start anew"
            )
        path = saved[-1]
        remedy = (
            "Remove it to go on from the one before, if there is one, or train with --overwrite to "
            "start anew."
        )
        own = self._states[0].save()
        # One of an optimizer with more slots is still read: the message says what does not fit.
        most_bytes = 1_000_000 + 2 * sum(array.nbytes for array in own.values())
        with Archive(path, what="a checkpoint", remedy=remedy, max_bytes=most_bytes) as archive:
            names = [name.removesuffix(".npy") for name in archive.names]
            arrays = {name: archive.read_array(name) for name in names}
        if misfit := _misfit(_kinds(own), _kinds(arrays)):
            raise InputError(
                f"checkpoint {path} does not fit this network and optimizer: {misfit}; resume with "
                "the settings in the run folder's config.json, or train with --overwrite to start "
                "anew"
            )
        step = int(arrays[_STEP])
        if path.name != self._name(step):
            raise InputError(f"{path} is damaged: it holds the state after {step} steps. {remedy}")
        for state in self._states:
            state.restore(arrays)
        return step

    @staticmethod
    def _name(step: int) -> str:
        return f"ckpt-{step}.npz"

    def _saved(self) -> list[Path]:
        """The checkpoints, the last one last."""
        steps = {path: _PATTERN.fullmatch(path.name) for path in self._folder.glob("*.npz")}
        numbered = [(int(match[1]), path) for path, match in steps.items() if match]
        return [path for _, path in sorted(numbered)]

    def _write(self, arrays: dict[str, Any]) -> None:
        self._check()
        try:
            self._replace(arrays)
        except FileNotFoundError:
            self._check()  # the folder may have been moved just now
            raise

    def _replace(self, arrays: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / self._name(arrays[_STEP])) as beside:
            np.savez(beside, **arrays)
        with opened_folder(self._folder) as folder:  # which is not redirected meanwhile
            for path in self._saved()[:-_NUM_KEPT]:
                os.unlink(path.name, dir_fd=folder)


def load_weights(path: Path, model: keras.Model) -> None:
    """Gives a model the weights of a checkpoint.

    Raises:
        InputError: when it is damaged, or lacks a variable of the model.
    """
    arrays: dict[str, np.ndarray] = {}
    with Archive(path, what="a checkpoint", remedy="Name another.") as archive:
        for name, variable in variables_by_name(model).items():
            member = f"{MODEL_PREFIX}{name}"
            found = {name: archive.read_array(member)} if f"{member}.npy" in archive.names else {}
            kind, wanted = _kinds(found).get(name), (variable.dtype, tuple(variable.shape))
            if kind != wanted:
                raise InputError(
                    f"checkpoint {path} does not fit the model: of {name} it holds {_shown(kind)}, "
                    f"and {_shown(wanted)} is wanted. Name another."
                )
            arrays |= found
    for name, variable in variables_by_name(model).items():
        variable.assign(arrays[name])


def _misfit(own: _Kinds, found: _Kinds) -> str | None:
    """The first thing in which a file differs from the state; None where there is none."""
    expected = {**own, _STEP: ("int64", ())}
    for name in expected | found:  # the weights first, which say most to a reader
        if found.get(name) != expected.get(name):
            is_, should_be = _shown(found.get(name)), _shown(expected.get(name))
            return f"of {name} it holds {is_}, and {should_be} is wanted"
    for is_name, name in zip(found, expected, strict=True):
        if is_name != name:  # the same layers, but another network
            return f"it holds {is_name} where {name} is wanted"
    return None


def _kinds(arrays: Mapping[str, np.ndarray]) -> _Kinds:
    return {name: (array.dtype.name, array.shape) for name, array in arrays.items()}


def _shown(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if kind is None else f"{kind[0]} {list(kind[1])}"
