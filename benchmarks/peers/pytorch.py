"""PyTorch: EmbeddingBag in sum mode, fused Adam.

Options: `compiled`: torch.compile. `sparse=adam` or `sparse=adagrad`: a table with sparse gradients
for SparseAdam or Adagrad, and no dropout; `num_tokens=` of that table.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.peers import protocol


class Network(nn.Module):
    """The tutorial's network; the first layer sums table rows instead of multiplying."""

    def __init__(self, num_tokens: int, dropout: tuple[float, ...], *, sparse: bool) -> None:
        super().__init__()
        first, *rest = protocol.HIDDEN_UNITS
        self.bag = nn.EmbeddingBag(num_tokens, first, mode="sum", sparse=sparse)
        nn.init.xavier_uniform_(self.bag.weight)
        self.bias = nn.Parameter(torch.zeros(first))
        layers: list[nn.Module] = [nn.ReLU()]
        layers += [nn.Dropout(dropout[0])] if dropout[0] else []
        width = first
        for units, rate in zip(rest, dropout[1:], strict=True):
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
    sparse = task.named.get("sparse")
    network = Network(
        int(task.named.get("num_tokens", protocol.NUM_TOKENS)),
        (0.0, 0.0, 0.0) if sparse else protocol.DROPOUT,
        sparse=sparse is not None,
    )
    step = torch.compile(network, dynamic=True) if "compiled" in task.options else network
    rate = protocol.LEARNING_RATE
    table = network.bag.weight
    others = [p for p in network.parameters() if sparse is None or p is not table]
    optimizers = [torch.optim.Adam(others, lr=rate, fused=True)]
    if sparse is not None:
        kind = torch.optim.SparseAdam if sparse == "adam" else torch.optim.Adagrad
        optimizers.append(kind([table], lr=rate))
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
            logits = step(values[first:last], splits[start:stop] - splits[start])
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
