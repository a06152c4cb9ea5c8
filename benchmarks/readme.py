"""Writes README's table of results and its plot from the files in benchmarks/results/.

    .venv/bin/python -m benchmarks.readme

The table stands between two marks in README; every row names the command that reproduces it.
"""

import json
from pathlib import Path
from typing import Any

from harness.files import replacing

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"


def table(results: Path) -> str:
    """The results as Markdown."""
    peers = {size: json.loads((results / f"peers-{size}.json").read_text()) for size in (500, 4096)}
    whole = json.loads((results / "against-tutorial.json").read_text())["figures"]
    accuracy = json.loads((results / "accuracy.json").read_text())["test_accuracy"]
    lines = [
        f"Machine: {_machine(peers[500])}. IMDB, the tutorial's network, float32, Adam, two "
        "threads each; compilation left out, data wait counted. Peers train epoch by epoch in "
        "turn; a range is the 20th to the 80th percentile over rounds.",
        "",
        "| training, examples/s | batch 500 | ours faster by | batch 4,096 | ours faster by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in peers[500]["figures"]:
        cells = []
        for size in (500, 4096):
            figures = peers[size]["figures"].get(name)
            cells += _peer_cells(figures) if figures else ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "(`./scripts/bench-peers path/to/imdb.npz`)", ""]
    lines += [
        "| whole process, two epochs | ours | the tutorial | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for figure, label, scale, unit in (
        ("wall_seconds", "import to evaluated model", 1, "s"),
        ("peak_rss_bytes", "peak memory", 1e9, "GB"),
    ):
        row = whole[figure]
        low, high = row["ratio_range"]
        ours, theirs = (f"{row[name] / scale:.2f} {unit}" for name in ("ours", "tutorial"))
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {label} | {ours} | {theirs} | {ratio} |")
    lines += [
        "",
        "(`.venv/bin/python -m benchmarks.against_tutorial --data path/to/imdb.npz`, before the "
        "peers are installed: the tutorial's Keras would import JAX)",
        "",
    ]
    means = ", ".join(f"{figures['mean']:.4f} {name}" for name, figures in accuracy.items())
    lines.append(
        f"Held-out accuracy after two epochs, mean of three seeds: {means} "
        "(`.venv/bin/python -m benchmarks.accuracy --data path/to/imdb.npz`)."
    )
    return "\n".join(lines)


def _peer_cells(figures: dict[str, Any]) -> list[str]:
    rate = f"{figures['examples_per_second']:,.0f} ({figures['p20']:,.0f} to {figures['p80']:,.0f})"
    low, high = figures["ratio_range"]
    return [rate, f"{figures['ours is faster by']:.2f} ({low:.2f} to {high:.2f})"]


def _machine(result: dict[str, Any]) -> str:
    host, versions = result["host"], result["versions"]
    return (
        f"{host['cores']} cores of {host['cpu']}, {host['memory_bytes'] / 2**30:.0f} GiB, "
        f"Python {versions['python']}, TensorFlow {versions['tensorflow']}"
    )


def plot(results: Path, path: Path) -> None:
    """A bar for each peer and batch size, with the range over rounds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, size in zip(axes, (500, 4096), strict=True):
        figures = json.loads((results / f"peers-{size}.json").read_text())["figures"]
        names = list(figures)[::-1]
        rates = [figures[name]["examples_per_second"] / 1e3 for name in names]
        low = [r - figures[n]["p20"] / 1e3 for n, r in zip(names, rates, strict=True)]
        high = [figures[n]["p80"] / 1e3 - r for n, r in zip(names, rates, strict=True)]
        colors = ["#d95f02" if name.startswith("ours") else "#7f7f7f" for name in names]
        axis.barh(names, rates, xerr=(low, high), color=colors)
        axis.set_title(f"batch {size:,}")
        axis.set_xlabel("thousand examples/s")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)


def main() -> None:
    readme = _ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    with replacing(readme) as beside:
        beside.write_text(f"{before}{_BEGIN}\n{table(_RESULTS)}\n{_END}{after}", encoding="utf-8")
    plot(_RESULTS, _ROOT / "docs" / "peers.png")


if __name__ == "__main__":
    main()
