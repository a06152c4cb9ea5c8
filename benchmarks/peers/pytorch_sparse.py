"""PyTorch: EmbeddingBag(sparse=True) in sum mode. Options: `adam` (SparseAdam) or `adagrad` for the
table; `V=` and the number of ids. The other layers get fused Adam."""

import numpy as np
import torch
from torch import nn

from benchmarks.peers import protocol


class Network(nn.Module):
    """A table, and the tutorial's other layers."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        first, *rest = protocol.HIDDEN_UNITS
        self.bag = nn.EmbeddingBag(num_tokens, first, mode="sum", sparse=True)
        nn.init.xavier_uniform_(self.bag.weight)
        self.bias = nn.Parameter(torch.zeros(first))
        layers: list[nn.Module] = [nn.ReLU()]
        width = first
        for units in rest:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.rest = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.rest(self.bag(values, offsets) + self.bias)[:, 0]


def main() -> None:
    task = protocol.load()
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    (num_tokens,) = (int(o.removeprefix("V=")) for o in task.options if o.startswith("V="))
    network = Network(num_tokens)
    table = [network.bag.weight]
    others = [p for p in network.parameters() if p is not network.bag.weight]
    rate = protocol.LEARNING_RATE
    kind = torch.optim.SparseAdam if "adam" in task.options else torch.optim.Adagrad
    optimizers = [kind(table, lr=rate), torch.optim.Adam(others, lr=rate, fused=True)]
    loss_of = nn.BCEWithLogitsLoss()
    rng = np.random.default_rng(0)

    def train_epoch() -> protocol.Epoch:
        epoch = task.shuffled(rng)
        values = torch.from_numpy(epoch.values)
        splits = torch.from_numpy(epoch.row_splits.astype(np.int32))
        labels = torch.from_numpy(epoch.labels.astype(np.float32))
        total = 0.0
        for start in range(0, task.num_rows, task.batch_size):
            stop = min(start + task.batch_size, task.num_rows)
            first, last = epoch.row_splits[start], epoch.row_splits[stop]
            logits = network(values[first:last], splits[start:stop] - splits[start])
            loss = loss_of(logits, labels[start:stop])
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += loss.item() * (stop - start)
        return protocol.Epoch(total / task.num_rows)

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
