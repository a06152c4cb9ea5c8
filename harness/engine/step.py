"""The compiled training step, and the dispatch that runs up to S of them in one call.

With one replica a dispatch is one XLA program: S times forward, backward and update. With several,
each replica's forward and backward are one program and its update another; between them the
strategy sums gradients.
Letters: S steps of a dispatch, R replicas, b rows of a replica's share of a batch.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from harness.engine.devices import Devices
from harness.engine.losses import row_hits, row_losses
from harness.engine.replica import Replica
from harness.pipeline.batch import AnyBatches, distributed

NUM_SUMS = 2
"""A dispatch's sums, float64: weighted row losses, hits."""


def row_weights(num_rows: tf.Tensor, *, replica: tf.Tensor | int, rows: int) -> tf.Tensor:
    """1.0 for each real row of a replica's share, 0.0 for padding: float32 [b].

    Args:
        num_rows: real rows of the global batch; they come first.
        replica: index of the replica.
        rows: b.
    """
    return tf.cast(replica * rows + tf.range(rows) < num_rows, tf.float32)


def step_sums(
    labels: tf.Tensor, losses: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Weighted sums of a step, float64 [NUM_SUMS]."""
    hits = row_hits(labels, logits)
    return tf.cast(
        tf.stack([tf.reduce_sum(losses * weights), tf.reduce_sum(hits * weights)]), tf.float64
    )


def gradients_and_sums(
    logits_of: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    variables: Sequence[tf.Variable | tf.Tensor],
    batches: AnyBatches,
    step: tf.Tensor,
    *,
    replica: tf.Tensor | int,
    scale: tf.Tensor | None,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """A replica's share of the gradients of the mean loss over the global batch's rows.

    Args:
        logits_of: from a batch's inputs to float32 [b, 1] or [b, K], in training.
        variables: what to differentiate by; `logits_of` reads them.
        batches: of this replica.
        step: which of the batches.
        replica: its index.
        scale: the loss scale; None where there is none. The gradients are returned without it.

    Returns:
        A gradient for each variable, and the step's sums, float64 [NUM_SUMS].
    """
    # The scopes, and those that Keras adds for layers, are what a profile is divided by.
    with tf.name_scope("input"):
        inputs, labels, num_rows = batches.read(step)
    with tf.name_scope("loss"):
        weights = row_weights(num_rows, replica=replica, rows=labels.shape[0])
    with tf.GradientTape() as tape:
        tape.watch(variables)
        logits = logits_of(inputs)
        with tf.name_scope("loss"):
            losses = row_losses(labels, logits)
            rows = tf.cast(tf.maximum(num_rows, 1), tf.float32)
            loss = tf.reduce_sum(losses * weights) / rows
            if scale is not None:
                loss *= scale
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    if scale is not None:
        with tf.name_scope("loss_scale"):
            gradients = [gradient / scale for gradient in gradients]
    with tf.name_scope("loss"):
        return gradients, step_sums(labels, losses, logits, weights)


class TrainingStep:
    """Runs dispatches of training steps; changes the network's weights in place."""

    def __init__(
        self,
        model: keras.Model,
        replicas: tuple[Replica, ...],
        devices: Devices,
        *,
        max_rehearsal_bytes: int = 2**25,
    ) -> None:
        """Args:
        model: gives logits, float32 [b, 1] or [b, K]; built under the strategy of `devices`.
        replicas: one for each device.
        max_rehearsal_bytes: of a replica's state, up to which `compile_for` tries a step out where
            it need not: it holds the state twice for that, and copying 60 MB already takes longer
            than is saved.
        """
        self._max_rehearsal_bytes = max_rehearsal_bytes
        self._model = model
        self._replicas = replicas
        self._devices = devices
        self.num_traces = 0
        """How often the dispatch was traced, and so compiled: once for each shape it was given."""
        if len(replicas) == 1:
            self._dispatch = tf.function(self._compiled_loop, jit_compile=True, autograph=False)
        else:
            self._dispatch = tf.function(self._distributed_loop, autograph=False)
            self._gradients = tf.function(self._forward_backward, jit_compile=True, autograph=False)
            self._updates = [
                tf.function(replica.update, jit_compile=True, autograph=False)
                for replica in replicas
            ]

    def __call__(
        self, batches: Sequence[AnyBatches], num_steps: int, *, first: int = 0
    ) -> tf.Tensor:
        """Runs `num_steps` steps of the batches at hand; does not wait for the device.

        Args:
            batches: for each replica, S batches.
            num_steps: how many of them.
            first: the one to begin with; `first + num_steps` is at most S.

        Returns:
            float64 [NUM_SUMS + 2]: the sums over the steps, steps skipped, loss scale afterwards.
        """
        # Tensors on purpose: Python numbers would be a new program for each value.
        steps = tf.constant(first), tf.constant(first + num_steps)
        if len(self._replicas) == 1:
            with tf.device(self._replicas[0].device):
                return self._dispatch(batches[0], *steps)
        together = distributed(batches, self._devices.strategy)
        return self._dispatch(together, *steps)

    def compile_for(self, batches: Sequence[AnyBatches], *, first: int = 0) -> None:
        """Compiles the dispatch for the shapes of `batches`; leaves every variable as it is.

        That takes a step which is taken back: the programs of several replicas are compiled when
        they first run, and libraries make code of their own then, as oneDNN does for a matrix
        product on the CPU (25 ms, of training that takes 0.1 s).

        Args:
            batches: for each replica, S batches.
            first: one that fits the capacity, of which a resident feed's batches hold others too.
        """
        state = [variable for replica in self._replicas for variable in replica.state()]
        num_bytes = sum(v.dtype.size * v.shape.num_elements() for v in state) / len(self._replicas)
        if len(self._replicas) == 1 and num_bytes > self._max_rehearsal_bytes:
            self(batches, 0, first=first).numpy()
            return
        before = []
        for variable in state:
            with tf.device(variable.device):
                before.append(tf.identity(variable))
        self(batches, 1, first=first).numpy()
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)

    def _compiled_loop(self, batches: AnyBatches, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        self.num_traces += 1
        (replica,) = self._replicas

        def body(step: tf.Tensor, sums: tf.Tensor, skipped: tf.Tensor) -> tuple[tf.Tensor, ...]:
            gradients, added = self._forward_backward(batches, step, 0, self._scale())
            return step + 1, sums + added, skipped + replica.update(gradients)

        return self._loop(body, first, end)

    def _distributed_loop(self, batches: AnyBatches, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        self.num_traces += 1
        strategy = self._devices.strategy

        def of_replica(
            batches: AnyBatches, step: tf.Tensor, scale: tf.Tensor | None
        ) -> tuple[list[tf.Tensor], tf.Tensor]:
            context = tf.distribute.get_replica_context()
            index = tf.cast(context.replica_id_in_sync_group, tf.int32)
            gradients, added = self._gradients(batches, step, index, scale)
            with tf.name_scope("all_reduce"):
                return self._all_reduce(gradients), added

        def body(step: tf.Tensor, sums: tf.Tensor, skipped: tf.Tensor) -> tuple[tf.Tensor, ...]:
            gradients, added = strategy.run(of_replica, args=(batches, step, self._scale()))
            local = strategy.experimental_local_results
            for index, (replica, update) in enumerate(
                zip(self._replicas, self._updates, strict=True)
            ):
                with tf.device(replica.device):
                    missed = update([local(gradient)[index] for gradient in gradients])
                if index == 0:
                    skipped += missed  # the others' equal it
            added = strategy.reduce(tf.distribute.ReduceOp.SUM, added, axis=None)
            return step + 1, sums + added, skipped

        return self._loop(body, first, end)

    def _all_reduce(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Each gradient's sum over the replicas; called in one of them."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)

    def _loop(self, body: object, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        # Not `for step in tf.range(first, end)`: XLA wants the limits of a range at compile time
        # and would compile a program for each number of steps.
        start = (first, tf.zeros([NUM_SUMS], tf.float64), tf.constant(0))
        _, sums, skipped = tf.while_loop(
            lambda step, *_: step < end, body, start, parallel_iterations=1
        )
        scale = self._scale()
        last = [tf.cast(skipped, tf.float64), tf.cast(1.0 if scale is None else scale, tf.float64)]
        return tf.concat([sums, tf.stack(last)], axis=0)

    def _scale(self) -> tf.Tensor | None:
        """The loss scale, float32 scalar; None where there is none."""
        loss_scale = self._replicas[0].loss_scale
        return None if loss_scale is None else tf.convert_to_tensor(loss_scale.scale)

    def _forward_backward(
        self,
        batches: AnyBatches,
        step: tf.Tensor,
        replica: tf.Tensor | int,
        scale: tf.Tensor | None,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        variables = [variable.value for variable in self._model.trainable_variables]
        return gradients_and_sums(
            lambda inputs: self._model(inputs, training=True),
            variables,
            batches,
            step,
            replica=replica,
            scale=scale,
        )
