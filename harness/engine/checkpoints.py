"""Checkpoints of everything that a resumed run needs to repeat the uninterrupted one."""

import functools
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from harness.background import Background
from harness.engine.replica import Replica, align_replicas
from harness.errors import InputError
from harness.files import os_error

_NUM_KEPT = 2
"""The last one, and one more in case the last was being written when the machine went down."""
_MAX_FACT = 300
"""Letters of what TensorFlow says of a misfit: it prints whole arrays."""


class Checkpoints:
    """Saves and restores weights, optimizer, dropout seeds, loss scale and the number of steps.

    Training goes on while a file is written, from a copy of the state in host memory. Where the
    processor is the device, writing takes its share of it all the same. These are not TensorFlow's
    own asynchronous checkpoints, which fail with Keras's variables.
    """

    def __init__(
        self,
        folder: Path,
        replicas: tuple[Replica, ...],
        background: Background,
        *,
        max_copied_bytes: int = 2**30,
    ) -> None:
        """Args:
        folder: where they live; made at the first save.
        replicas: of which the first one's state stands for all.
        background: where they are written.
        max_copied_bytes: of that state. Of a larger one no copies are made: training waits.
        """
        self._folder = folder
        self._replicas = replicas
        self._background = background
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        num_bytes = sum(v.dtype.size * v.shape.num_elements() for v in replicas[0].state())
        self._is_copied = num_bytes <= max_copied_bytes

    @functools.cached_property
    def _saved_parts(self) -> dict[str, list[tf.Variable]]:
        """What files are written from and read into: the state, or in host memory what mirrors it.
        Either reads the other's files."""
        parts = self._replicas[0].parts()
        if not self._is_copied:
            return parts
        with tf.device("CPU:0"):
            return {
                part: [
                    tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False, name=f"{part}_{index}")
                    for index, v in enumerate(variables)
                ]
                for part, variables in parts.items()
            }

    @functools.cached_property
    def _checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(step=self._step, **self._saved_parts)

    @functools.cached_property
    def _manager(self) -> tf.train.CheckpointManager:
        # Made at the first use: it remembers the checkpoints that the folder then holds, and those
        # of a run that is being replaced are gone by that time.
        return tf.train.CheckpointManager(
            self._checkpoint, str(self._folder), max_to_keep=_NUM_KEPT
        )

    def save(self, step: int) -> None:
        """Saves the state after `step` optimizer steps, which may change as soon as this returns.

        Raises:
            OSError: naming the checkpoint, when it cannot be written, as on a full disk. The
                folder then holds those before it alone. From `background`, except for a large
                state.
        """
        # Who saves faster than the disk takes it waits here, with one copy in memory.
        self._background.wait()
        if not self._is_copied:
            self._write(step)
            return
        copies = [variable.numpy() for variable in self._replicas[0].state()]
        self._background.do(functools.partial(self._write, step, copies))

    def restore(self) -> int:
        """Restores the last state and returns its number of steps.

        Raises:
            InputError: when there is no checkpoint, or it is damaged, or does not fit the network.
        """
        path = self._manager.latest_checkpoint
        if path is None:
            raise InputError(
                f"{self._folder} holds no checkpoint to resume from; train with --overwrite to "
                "start anew"
            )
        try:
            # Judged here: unless told so, TensorFlow logs a misfit again when the process ends.
            self._checkpoint.restore(path).expect_partial().assert_consumed()
        except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
            # IndexError is what TensorFlow raises of a file that ends too early.
            fact = textwrap.shorten(str(error), _MAX_FACT, placeholder=" ...")
            raise InputError(
                f"checkpoint {path} does not fit this network and optimizer, is of another version "
                f"of the harness, or is damaged: {fact}; resume with the settings in the run "
                "folder's config.json and the version that saved it, or train with --overwrite to "
                "start anew"
            ) from error
        if self._is_copied:
            for variable, saved in zip(self._replicas[0].state(), self._saved(), strict=True):
                variable.assign(saved)
        align_replicas(self._replicas)
        return int(self._step.numpy())

    def _saved(self) -> list[tf.Variable]:
        return [variable for part in self._saved_parts.values() for variable in part]

    def _write(self, step: int, copies: Sequence[np.ndarray] = ()) -> None:
        """TensorFlow writes beside and renames."""
        self._step.assign(step)
        for variable, copy in zip(self._saved() if copies else (), copies, strict=True):
            variable.assign(copy)
        try:
            self._manager.save(checkpoint_number=step)
        except tf.errors.OpError as error:
            path = self._folder / f"ckpt-{step}"
            shutil.rmtree(f"{path}_temp", ignore_errors=True)  # where TensorFlow writes at first
            raise os_error(error.message, path) from error
