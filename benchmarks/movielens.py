"""Mult-VAE on MovieLens-100k by this harness and by PyTorch: Recall@20 and NDCG@100 of users who
are held out.

    .venv/bin/python -m benchmarks.movielens path/to/ml-100k/u.data --seeds 10

https://files.grouplens.org/datasets/movielens/ml-100k.zip has the file. Ratings from 4 on are
items that a user likes. Of the users with five such items, 150 are held out; a random fifth of
the items of each is to be found from the others. Both programs train on the same rows, with the
same sizes, for the same number of epochs, and the same code computes their figures.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path

import keras
import numpy as np
import torch

import harness
from benchmarks.peers import protocol
from benchmarks.peers.mult_vae import mult_vae
from benchmarks.peers.mult_vae_pytorch import MultVAE, batches, step
from harness.data import weighting

Rows = harness.RaggedSets
HELD_OUT_USERS, BATCH_SIZE, ANNEAL_STEPS = 150, 100, 1_000


def movielens(path: Path, *, seed: int) -> tuple[Rows, ...]:
    """Returns the items of train users, and of held-out users those given and those to be found."""
    ratings = np.loadtxt(path, dtype=np.int64)  # user, item, rating, time
    liked = ratings[ratings[:, 2] >= 4]
    names, item = np.unique(liked[:, 1], return_inverse=True)
    rng = np.random.default_rng(seed)
    users = [rng.permutation(item[liked[:, 0] == user]) for user in np.unique(liked[:, 0])]
    users = [items for items in users if len(items) >= 5]
    order = rng.permutation(len(users))
    held_out = [users[place] for place in order[:HELD_OUT_USERS]]
    parts = (
        [users[place] for place in order[HELD_OUT_USERS:]],
        [items[len(items) // 5 :] for items in held_out],
        [items[: len(items) // 5] for items in held_out],
    )
    return tuple(Rows.from_lists(p, num_tokens=len(names)).unique() for p in parts)


def dense(rows: Rows) -> np.ndarray:
    found = np.zeros([rows.num_rows, rows.num_tokens], np.float32)
    found[np.repeat(np.arange(rows.num_rows), rows.lengths), rows.values] = 1
    return found


def by_harness(
    train: Rows, given: Rows, wanted: Rows, *, epochs: int, seed: int, samples: int | None = None
) -> dict[str, float]:
    trainer = harness.Trainer(
        mult_vae(train.num_tokens, anneal_steps=ANNEAL_STEPS),
        task=harness.Task("multinomial", loss=harness.Multinomial(num_samples=samples)),
        optimizer=keras.optimizers.Adam(protocol.LEARNING_RATE),
        batch_size=BATCH_SIZE,
        seed=seed,
    )
    rows = weighting.l2_normalized(train.with_weights())
    trainer.fit((rows, train), epochs=epochs, verbose=False)
    return trainer.evaluate((weighting.l2_normalized(given.with_weights()), wanted))


def by_pytorch(
    train: Rows, given: Rows, wanted: Rows, *, epochs: int, seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)
    model = MultVAE(train.num_tokens, anneal_steps=ANNEAL_STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.LEARNING_RATE, fused=True)
    task = protocol.Task(
        values=train.values, row_splits=train.row_splits, labels=np.zeros(train.num_rows),
        batch_size=BATCH_SIZE, threads=2, options=(),
    )  # fmt: skip
    steps = epochs * -(-train.num_rows // BATCH_SIZE)
    for batch in itertools.islice(batches(task, np.random.default_rng(seed)), steps):
        step(model, optimizer, batch)
    model.eval()
    with torch.no_grad():
        splits = torch.from_numpy(given.row_splits.astype(np.int64))
        scores = model(torch.from_numpy(given.values.astype(np.int64)), splits)[0].numpy()
    found = {}
    for metric in (harness.RecallAtK(20), harness.NDCGAtK(100)):
        metric.update_state(dense(wanted), np.where(dense(given), np.finfo("f").min, scores))
        found[metric.name] = float(metric.result())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="u.data of MovieLens-100k")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10, help="splits, each with its own seed")
    parser.add_argument("--samples", type=int, help="compare with a sampled likelihood instead")
    arguments = parser.parse_args()
    programs = {"harness": by_harness, "PyTorch": by_pytorch}
    if arguments.samples:
        sampled = partial(by_harness, samples=arguments.samples)
        programs = {"harness": by_harness, f"{arguments.samples} samples": sampled}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for seed in range(arguments.seeds):
        rows = movielens(arguments.path, seed=seed)
        for name, train in programs.items():
            found[name].append(train(*rows, epochs=arguments.epochs, seed=seed))
            print(seed, name, found[name][-1], flush=True)
    for figure in ("recall_at_20", "ndcg_at_100"):
        ours, theirs = (np.array([one[figure] for one in found[name]]) for name in found)
        pairs = zip([*programs, "difference"], (ours, theirs, ours - theirs), strict=True)
        for name, values in pairs:
            error = values.std(ddof=1) / np.sqrt(len(values))
            print(f"{figure}, {name}: {values.mean():.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    main()
