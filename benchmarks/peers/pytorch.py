"""PyTorch: EmbeddingBag in sum mode, fused Adam.

Options: `compiled`: torch.compile.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.peers import protocol


class Network(nn.Module):
    """The tutorial's network; the first layer sums table rows instead of multiplying."""

    def __init__(self) -> None:
        super().__init__()
        first, *rest = protocol.HIDDEN_UNITS
        self.bag = nn.EmbeddingBag(protocol.NUM_TOKENS, first, mode="sum")
        nn.init.xavier_uniform_(self.bag.weight)
        self.bias = nn.Parameter(torch.zeros(first))
        rate, *rates = protocol.DROPOUT
        layers: list[nn.Module] = [nn.ReLU(), nn.Dropout(rate)]
        width = first
        for units, rate in zip(rest, rates, strict=True):
            layers += [nn.Linear(width, units), nn.ReLU()]
            layers += [nn.Dropout(rate)] if rate else []
            width = units
        self.rest = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.rest(self.bag(values, offsets) + self.bias)[:, 0]


def main() -> None:
    task = protocol.load()
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    network = Network()
    step = torch.compile(network, dynamic=True) if "compiled" in task.options else network
    optimizer = torch.optim.Adam(network.parameters(), lr=protocol.LEARNING_RATE, fused=True)
    loss_of = nn.BCEWithLogitsLoss()
    rng = np.random.default_rng(0)

    def train_epoch() -> float:
        epoch = task.shuffled(rng)
        values = torch.from_numpy(epoch.values)
        splits = torch.from_numpy(epoch.row_splits.astype(np.int32))
        labels = torch.from_numpy(epoch.labels.astype(np.float32))
        total = 0.0
        for start in range(0, task.num_rows, task.batch_size):
            stop = min(start + task.batch_size, task.num_rows)
            first, last = epoch.row_splits[start], epoch.row_splits[stop]
            logits = step(values[first:last], splits[start:stop] - splits[start])
            loss = loss_of(logits, labels[start:stop])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * (stop - start)
        return total / task.num_rows

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
