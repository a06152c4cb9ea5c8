"""Mult-VAE (Liang et al., "Variational Autoencoders for Collaborative Filtering", 2018) by this
harness: a peer of `benchmarks.peers.mult_vae_pytorch`.

Options: `items=V`; `samples=S` for a sampled likelihood; `units=600`; `steps=4`, how many steps a
turn trains.
"""

from benchmarks.peers import protocol

if __name__ == "__main__":
    TASK = protocol.load()

import keras
import tensorflow as tf

import harness
from harness.data import weighting

LATENT, MOST_KL, DROPOUT = 200, 0.2, 0.5


@keras.saving.register_keras_serializable(package="mult_vae")
class Gaussian(keras.layers.Layer):
    """Draws z [rows, units] from the means and log variances [rows, 2 * units] of a posterior, and
    adds its KL divergence from the standard normal, weighted by up to `most` after `steps`."""

    def __init__(self, most=MOST_KL, steps=20_000, **kwargs):
        super().__init__(**kwargs)
        self.most, self.steps = most, steps
        self.seeds = keras.random.SeedGenerator()

    def build(self, shape):
        self.done = self.add_weight(name="done", initializer="zeros", trainable=False)

    def call(self, x, training=False):
        mean, log_variance = keras.ops.split(x, 2, axis=1)
        kl = (keras.ops.exp(log_variance) + keras.ops.square(mean) - log_variance - 1) / 2
        share = keras.ops.minimum(self.done / self.steps, 1.0)
        self.add_loss(self.most * share * keras.ops.mean(keras.ops.sum(kl, axis=1)))
        if not training:
            return mean
        self.done.assign(self.done + 1)
        seed = keras.ops.cast(self.seeds.next(), "int32")
        noise = tf.random.stateless_normal(keras.ops.shape(mean), seed, alg="philox")
        return mean + keras.ops.exp(log_variance / 2) * noise

    def get_config(self):
        return {**super().get_config(), "most": self.most, "steps": self.steps}


def mult_vae(num_items, *, units=600, anneal_steps=20_000):
    """Returns the function that builds the network, of normalized sets of items."""

    def network(inputs):
        weights = harness.HashDropout(DROPOUT)(inputs["weights"])
        x = harness.MultiHotDense(units, num_items, activation="tanh")(
            {**inputs, "weights": weights}
        )
        x = Gaussian(steps=anneal_steps)(keras.layers.Dense(2 * LATENT)(x))
        x = keras.layers.Dense(units, activation="tanh")(x)
        return keras.layers.Dense(num_items)(x)

    return network


def main() -> None:
    named = {"samples": "0", "units": "600", "steps": "4", **TASK.named}
    num_items, samples = int(named["items"]), int(named["samples"])
    items = harness.RaggedSets(
        values=TASK.values, row_splits=TASK.row_splits, num_tokens=num_items, name="users"
    ).unique()
    users = harness.Examples(
        inputs={"": weighting.l2_normalized(items.with_weights())}, labels=items, name="users"
    )
    trainer = harness.Trainer(
        mult_vae(num_items, units=int(named["units"])),
        task=harness.Task("multinomial", loss=harness.Multinomial(num_samples=samples or None)),
        optimizer=keras.optimizers.Adam(protocol.LEARNING_RATE),
        batch_size=TASK.batch_size,
        precision="float32",
        **{n: v for n, v in named.items() if n not in ("items", "samples", "units", "steps")},
    )
    steps = trainer.steps(users, epochs=10)

    def train_epoch() -> float:
        last = steps.run(num_steps=int(named["steps"])).last_window
        assert last is not None
        return last.so_far["loss"]

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
