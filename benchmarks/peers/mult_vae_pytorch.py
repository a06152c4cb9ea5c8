"""The twin of `benchmarks.peers.mult_vae` in PyTorch: EmbeddingBag, the targets of a batch dense on
the device, fused Adam. It takes the same options but `samples`."""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers import protocol

LATENT, MOST_KL, DROPOUT = 200, 0.2, 0.5


class MultVAE(nn.Module):
    def __init__(self, num_items: int, *, units: int = 600, anneal_steps: int = 20_000) -> None:
        super().__init__()
        self.num_items, self.anneal_steps, self.done = num_items, anneal_steps, 0
        self.bag = nn.EmbeddingBag(num_items, units, mode="sum")
        self.bias = nn.Parameter(torch.zeros(units))
        self.posterior = nn.Linear(units, 2 * LATENT)
        self.hidden = nn.Linear(LATENT, units)
        self.logits = nn.Linear(units, num_items)
        for layer in (self.bag, self.posterior, self.hidden, self.logits):
            nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, items: torch.Tensor, splits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the logits [rows, items], and the KL divergence."""
        lengths = splits[1:] - splits[:-1]
        weights = torch.repeat_interleave(lengths.float().rsqrt(), lengths)
        weights = functional.dropout(weights, DROPOUT, self.training)
        x = torch.tanh(self.bag(items, splits[:-1], per_sample_weights=weights) + self.bias)
        mean, log_variance = self.posterior(x).chunk(2, dim=1)
        kl = ((log_variance.exp() + mean**2 - log_variance - 1) / 2).sum(dim=1).mean()
        z = mean
        if self.training:
            z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return self.logits(torch.tanh(self.hidden(z))), kl

    def loss(self, items: torch.Tensor, splits: torch.Tensor) -> torch.Tensor:
        logits, kl = self(items, splits)
        rows = torch.repeat_interleave(torch.arange(len(splits) - 1), splits[1:] - splits[:-1])
        targets = torch.zeros(len(splits) - 1, self.num_items)
        targets[rows, items] = 1.0
        likelihood = (functional.log_softmax(logits, dim=1) * targets).sum(dim=1).mean()
        share, self.done = min(self.done / self.anneal_steps, 1.0), self.done + 1
        return MOST_KL * share * kl - likelihood


def batches(task: protocol.Task, rng: np.random.Generator):
    """Yields the items and row splits of batches, epoch after epoch in new orders."""
    while True:
        epoch = task.shuffled(rng)
        items = torch.from_numpy(epoch.values.astype(np.int64))
        splits = torch.from_numpy(epoch.row_splits)
        for start in range(0, task.num_rows, task.batch_size):
            own = splits[start : start + task.batch_size + 1]
            yield items[own[0] : own[-1]], own - own[0]


def step(
    model: MultVAE, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, ...]
) -> float:
    """Trains a step; returns its loss."""
    loss = model.loss(*batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    task = protocol.load()
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    named = {"units": "600", "steps": "4", **task.named}
    model = MultVAE(int(named["items"]), units=int(named["units"]))
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.LEARNING_RATE, fused=True)
    endless, num_steps = batches(task, np.random.default_rng(0)), int(named["steps"])

    def train_epoch() -> float:
        some = itertools.islice(endless, num_steps)
        return sum(step(model, optimizer, batch) for batch in some) / num_steps

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
