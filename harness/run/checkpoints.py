"""Checkpoints of everything that a resumed run needs to repeat the uninterrupted one."""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from harness.base.archive import Archive
from harness.base.errors import InputError
from harness.base.files import json_text
from harness.base.memory import free_bytes
from harness.run.background import Background
from harness.run.checkpoint_schedule import saved_in, step_of
from kernels.files import opened_folder, replacing

_STEP, _ABOUT = "step", "about"
_MAX_ABOUT_BYTES = 1_000_000
# The dtype and shape of each array, by name.
_Kinds = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class Restored:
    step: int
    about: Mapping[str, Any]  # The `about` that `save` was given
    skipped: Sequence[str] = ()  # A message for each newer checkpoint, which says how it is damaged


class Saved(Protocol):
    """What a checkpoint holds; `harness.program.state.State` describes it."""

    @property
    def kinds(self) -> _Kinds: ...
    @property
    def metric_sums(self) -> Mapping[str, Sequence[tf.Variable]]: ...
    def save(self, *, copied: bool = True) -> dict[str, Any]: ...
    def restore(self, saved: Mapping[str, np.ndarray]) -> None: ...


@dataclass(eq=False)
class Checkpoints:
    """Saves and restores weights, optimizer, dropout seeds, loss scale and the number of steps.

    A checkpoint is NumPy's npz, with an array for each name of `State.save`, the sums of metrics
    that run over an epoch, and `about` as JSON text. A background thread writes it from a copy of
    the state in host memory, if `free` memory has room for one. TensorFlow's own checkpoints
    take four times the processor's time, which on a CPU is the device's.
    """

    folder: Path
    state: Saved
    background: Background
    keep: int = 2  # the last one, and one more in case the last is damaged
    check: Callable[[], None] = lambda: None  # raises where writing would be in vain
    free: Callable[[], int] = free_bytes
    _written: Future[None] | None = field(init=False, default=None)

    @property
    def is_writing(self) -> bool:
        return self._written is not None and not self._written.done()

    def save(self, step: int, about: Mapping[str, Any] | None = None) -> None:
        """Saves the state after `step` optimizer steps as ckpt-STEP.npz. The caller may change it
        as soon as this returns: it was copied where a copy takes half of the free memory or less,
        else it is written by then. `background` raises an OSError that names the file, such as that
        of a full disk; the folder then holds only the earlier checkpoints."""
        # A run that saves faster than the disk writes waits here, with one copy in memory.
        if self._written is not None:
            self._written.result()
        is_copied = 2 * _num_bytes(self.state.kinds) <= self.free()
        arrays = self.state.save(copied=is_copied)
        for name, every in self.state.metric_sums.items():
            arrays[name] = np.sum([own.numpy() for own in every], axis=0)
        arrays[_STEP] = np.asarray(step, np.int64)
        if about is not None:
            arrays[_ABOUT] = np.asarray(json_text(about).encode())
        self._written = self.background.do(functools.partial(self._write, arrays, step))
        if not is_copied:
            wait([self._written])

    def restore(self) -> Restored:
        """Restores the newest intact state; raises InputError if none is, or it does not fit."""
        saved = saved_in(self.folder)
        if not saved:
            raise InputError(
                f"{self.folder} holds no checkpoint to resume from; train with --overwrite to "
                "start anew"
            )
        own = self.state.kinds
        sums = self.state.metric_sums
        skipped: list[str] = []
        for path in reversed(saved):
            with ExitStack() as open_:
                try:
                    # Twice the state's size is allowed, so that a checkpoint of an optimizer with
                    # more slots is read as well, and the message names what does not fit.
                    saved_, found, about = _opened(path, _num_bytes(own), open_)
                except InputError as error:
                    skipped.append(str(error).rstrip())
                    continue
                kinds = {name: kind for name, kind in found.items() if name not in sums}
                if misfit := _misfit(own, kinds):
                    raise InputError(
                        f"checkpoint {path} does not fit this network and optimizer: {misfit}; "
                        "resume with the settings in the run folder's config.json, or train with "
                        "--overwrite to start anew"
                    )
                self.state.restore(saved_)
                for name in sums.keys() & found.keys():
                    first, *others = sums[name]
                    first.assign(saved_[name])
                    for other in others:  # later they are added up
                        other.assign(tf.zeros_like(other))
                return Restored(step=int(saved_[_STEP]), about=about, skipped=skipped)
        older = f", as are all {len(saved) - 1} before it" if len(saved) > 1 else ""
        raise InputError(
            f"{skipped[0].removesuffix('.')}{older}. Restore it, or train with --overwrite to "
            "start anew."
        )

    def _write(self, arrays: dict[str, Any], step: int) -> None:
        self.check()
        try:
            self._replace(arrays, step)
        except FileNotFoundError:
            self.check()  # the folder may have been moved just now
            raise

    def _replace(self, arrays: dict[str, Any], step: int) -> None:
        self.folder.mkdir(exist_ok=True)  # without its parents: a run folder that moved stays gone
        path = self.folder / f"ckpt-{step}.npz"
        with replacing(path) as beside:
            np.savez(beside, **arrays)
        # Later ones are from before a resume that found them damaged: remove them too.
        own = saved_in(self.folder)
        if path not in own:
            raise FileNotFoundError(path)
        place = own.index(path) + 1
        first = max(0, place - self.keep)
        with opened_folder(self.folder) as folder:  # which is not redirected meanwhile
            for old in [*own[:first], *own[place:]]:
                os.unlink(old.name, dir_fd=folder)


def _opened(
    path: Path, state_bytes: int, open_: ExitStack
) -> tuple[Mapping[str, np.ndarray], _Kinds, Mapping[str, Any]]:
    """Opens and checks a checkpoint, until `open_` closes; returns its arrays, each read when it is
    asked for, the kinds of all but its `about`, and that."""
    most_bytes = 1_000_000 + _MAX_ABOUT_BYTES + 2 * state_bytes
    archive = Archive(path, what="a checkpoint", remedy="", max_bytes=most_bytes)
    open_.enter_context(archive)
    archive.check()
    kinds: _Kinds = {}
    with archive.damage():
        assert archive.zip.fp is not None
        archive.zip.fp.seek(0)
        saved = np.load(archive.zip.fp, allow_pickle=False)
        for name in saved:
            dtype, shape = archive.read_kind(name)
            if name not in (_ABOUT, "checksum"):  # as earlier versions wrote it
                kinds[name] = dtype.name, shape
        step = int(saved[_STEP]) if _STEP in saved else -1
        if _STEP in saved and step_of(path) != step:
            raise ValueError(f"it holds the state after {step} steps")
        about = json.loads(saved[_ABOUT].item().decode()) if _ABOUT in saved else {}
        if not isinstance(about, dict):
            raise ValueError(f"what it says of itself is a {type(about).__name__}")
    return saved, kinds, about


def _num_bytes(kinds: _Kinds) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in kinds.values())


def _misfit(own: _Kinds, found: _Kinds) -> str | None:
    """Describes the first array in which a file differs from the state; None if none differs."""
    expected = {**own, _STEP: ("int64", ())}
    for name in expected | found:  # the weights first, which tell a reader most
        if found.get(name) != expected.get(name):
            is_, should_be = _shown(found.get(name)), _shown(expected.get(name))
            return f"of {name} it holds {is_}, and {should_be} is wanted"
    return None


def _shown(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if kind is None else f"{kind[0]} {list(kind[1])}"
