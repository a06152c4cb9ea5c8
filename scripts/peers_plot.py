"""Draws docs/peers.png from benchmarks/results/: a bar for each peer and batch size, with the 20th
and the 80th percentile over rounds.

.venv/bin/python scripts/peers_plot.py
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, size in zip(axes, (500, 4096), strict=True):
        path = _ROOT / "benchmarks" / "results" / f"peers-{size}.json"
        figures = json.loads(path.read_text())["figures"]
        names = list(figures)[::-1]
        rates = [figures[name]["examples_per_second"] / 1e3 for name in names]
        low = [r - figures[n]["p20"] / 1e3 for n, r in zip(names, rates, strict=True)]
        high = [figures[n]["p80"] / 1e3 - r for n, r in zip(names, rates, strict=True)]
        colors = ["#d95f02" if name.startswith("ours") else "#7f7f7f" for name in names]
        axis.barh(names, rates, xerr=(low, high), color=colors)
        axis.set_title(f"batch {size:,}")
        axis.set_xlabel("thousand examples/s")
    figure.savefig(_ROOT / "docs" / "peers.png", dpi=110)


if __name__ == "__main__":
    main()
