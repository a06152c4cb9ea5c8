"""Two workers of Ray train one model: python docs/ray_train.py

The data and the run folder lie on a file system that all machines share.
"""

import secrets

import ray
from ray.train import ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train() -> None:
    import keras

    import harness

    data = harness.load("/shared/reviews.npz")

    def model(inputs):
        x = harness.MultiHotDense(64, num_tokens=data.num_tokens, activation="gelu")(inputs)
        return keras.layers.Dense(1)(x)

    trainer = harness.Trainer(model, batch_size=8192)
    trainer.fit(
        data.train,
        validation=data.test,
        epochs=20,
        run_dir="/shared/runs/ray",
        resume="auto",
        checkpoint_every="60s",
    )


if __name__ == "__main__":
    # The workers tell each other from strangers by this secret.
    ray.init(runtime_env={"env_vars": {"HARNESS_CLUSTER_TOKEN": secrets.token_hex()}})
    TensorflowTrainer(train, scaling_config=ScalingConfig(num_workers=2)).fit()
