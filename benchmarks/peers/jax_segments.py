"""JAX: gather and segment_sum under jit, Adam of optax; values padded to one static length."""

import os

from benchmarks.peers import protocol

TASK = protocol.load()
os.environ["XLA_FLAGS"] = (
    f"--xla_cpu_multi_thread_eigen={'true' if TASK.threads > 1 else 'false'} "
    f"intra_op_parallelism_threads={TASK.threads}"
)

import jax  # noqa: E402 - it reads its thread count when it is imported
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402


def initial(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    widths = [protocol.NUM_TOKENS, *protocol.HIDDEN_UNITS, 1]
    keys = jax.random.split(key, len(widths) - 1)
    glorot = jax.nn.initializers.glorot_uniform()
    return [
        (glorot(k, (m, n)), jnp.zeros(n)) for k, m, n in zip(keys, widths, widths[1:], strict=False)
    ]


def logits_of(params, values, segments, key, rows):
    (table, bias), *rest = params
    # Padding falls into one segment beyond the rows.
    sums = jax.ops.segment_sum(
        table[values], segments, num_segments=rows + 1, indices_are_sorted=True
    )
    x = jax.nn.relu(sums[:rows] + bias)
    for rate, (kernel, bias) in zip(protocol.DROPOUT, rest, strict=True):
        if rate:
            key, mine = jax.random.split(key)
            keep = jax.random.bernoulli(mine, 1 - rate, x.shape)
            x = jnp.where(keep, x / (1 - rate), 0)
        x = x @ kernel + bias
        if kernel.shape[1] > 1:
            x = jax.nn.relu(x)
    return x[:, 0]


def main() -> None:
    rows = TASK.batch_size
    optimizer = optax.adam(protocol.LEARNING_RATE)
    params = initial(jax.random.key(0))
    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    lengths = np.diff(TASK.row_splits)
    capacity = int(rows * lengths.mean() + 5 * np.sqrt(rows) * lengths.std())

    @jax.jit
    def step(params, state, values, segments, labels, key):
        def loss_of(params):
            logits = logits_of(params, values, segments, key, rows)
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    def train_epoch() -> float:
        nonlocal params, state
        epoch = TASK.shuffled(rng)
        labels = epoch.labels.astype(np.float32)
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), TASK.num_rows // rows)
        segments_of_all = np.repeat(
            np.arange(TASK.num_rows, dtype=np.int32), np.diff(epoch.row_splits)
        )
        losses = []
        # Only whole batches, which favours JAX.
        for number, start in enumerate(range(0, TASK.num_rows - rows + 1, rows)):
            first, last = epoch.row_splits[start], epoch.row_splits[start + rows]
            last = min(last, first + capacity)
            values = np.zeros(capacity, np.int32)
            segments = np.full(capacity, rows, np.int32)
            values[: last - first] = epoch.values[first:last]
            segments[: last - first] = segments_of_all[first:last] - start
            params, state, loss = step(
                params, state, values, segments, labels[start : start + rows], keys[number]
            )
            losses.append(loss)
        return float(jnp.stack(losses).mean())

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
