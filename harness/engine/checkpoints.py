"""Checkpoints of everything that a resumed run needs to repeat the uninterrupted one."""

import functools
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from harness.engine.replica import Replica, align_replicas
from harness.errors import InputError
from harness.files import os_error

_NUM_KEPT = 2
"""The last one, and one more in case the last was being written when the machine went down."""


class Checkpoints:
    """Saves and restores weights, optimizer, dropout seeds, loss scale and the number of steps."""

    def __init__(self, folder: Path, model: keras.Model, replicas: tuple[Replica, ...]) -> None:
        """Args:
        folder: where they live; made at the first save.
        model: holds the weights.
        replicas: of which the first one's optimizer, dropout seeds and loss scale stand for all.
        """
        self._replicas = replicas
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        first = replicas[0]
        parts = {} if first.loss_scale is None else {"loss_scale": first.loss_scale}
        self._checkpoint = tf.train.Checkpoint(
            model=model,
            # Keras's seed generators are invisible to TensorFlow's checkpoints.
            seeds=list(first.seeds),
            optimizer=first.optimizer,
            step=self._step,
            **parts,
        )
        self._folder = folder

    @functools.cached_property
    def _manager(self) -> tf.train.CheckpointManager:
        # Made at the first use: it remembers the checkpoints that the folder then holds, and those
        # of a run that is being replaced are gone by that time.
        return tf.train.CheckpointManager(
            self._checkpoint, str(self._folder), max_to_keep=_NUM_KEPT
        )

    def save(self, step: int) -> None:
        """Saves the state after `step` optimizer steps; TensorFlow writes beside and renames.

        Raises:
            OSError: naming the checkpoint, when it cannot be written, as on a full disk. The
                folder then holds those before it alone.
        """
        self._step.assign(step)
        try:
            self._manager.save(checkpoint_number=step)
        except tf.errors.OpError as error:
            path = self._folder / f"ckpt-{step}"
            shutil.rmtree(f"{path}_temp", ignore_errors=True)  # where TensorFlow writes at first
            raise os_error(error.message, path) from error

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
            fact = " ".join(str(error).split())
            raise InputError(
                f"checkpoint {path} does not fit this network and optimizer, or is damaged: {fact};"
                " resume with the settings in the run folder's config.json, or train with "
                "--overwrite to start anew"
            ) from error
        align_replicas(self._replicas)
        return int(self._step.numpy())
