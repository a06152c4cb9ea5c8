"""Test accuracy on IMDB with each optimizer of touched rows beside the dense one, by seed.

    .venv/bin/python -m benchmarks.table_accuracy --data imdb.npz [--seeds 3] [--epochs 2]

The tutorial's network and settings. Exits with 1 where `lazy_adam` is further than 0.004 from dense
Adam for a seed.
"""

import argparse
import sys

import harness
from harness.model.network import default_network

_KINDS = ("dense", "lazy_adam", "exact_adam")
_MOST = 0.004


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    data = harness.load(arguments.data)
    missed = 0
    for seed in range(arguments.seeds):
        found = {}
        for kind in _KINDS:
            network = default_network(num_tokens=data.train.num_tokens, num_classes=2, seed=seed)
            trainer = harness.Trainer(network, table_optimizer=kind, seed=seed, precision="float32")
            trainer.fit(data.train, epochs=arguments.epochs, verbose=False)
            found[kind] = trainer.evaluate(data.test)["accuracy"]
        print(f"seed {seed}: " + ", ".join(f"{kind} {found[kind]:.4f}" for kind in _KINDS))
        missed += abs(found["lazy_adam"] - found["dense"]) > _MOST
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
