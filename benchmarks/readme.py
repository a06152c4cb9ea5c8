"""Writes the tables of results in README and docs/, and the plot, from benchmarks/results/.

    .venv/bin/python -m benchmarks.readme

Each table stands between two marks, and names the command that reproduces it.
"""

import json
from pathlib import Path
from typing import Any

from kernels.files import replacing

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_TUTORIAL = "the tutorial's fit"
_PEERS = "./scripts/bench-peers path/to/imdb.npz"
_AGAINST_TUTORIAL = ".venv/bin/python -m benchmarks.against_tutorial --data path/to/imdb.npz"
_WHOLE = (
    ("wall_seconds", "import to evaluated model", 1, "s"),
    ("wall_seconds, first run", "the same, with nothing built or read before", 1, "s"),
    ("peak_rss_bytes", "peak memory", 1e9, "GB"),
)


def summary(results: Path) -> str:
    """Returns README's table: one row for each measurement, with its command."""
    peers, whole, accuracy = _read(results)
    lines = [
        f"Machine: {_machine(peers[500])}. IMDB, the tutorial's network, float32, Adam. In "
        "parentheses: minimum and maximum over rounds.",
        "",
        "| measured | result | command |",
        "| --- | --- | --- |",
    ]
    for size, result in peers.items():
        figures = result["figures"]
        peers_only = [name for name in figures if not name.startswith("ours")]
        fastest = min(peers_only, key=lambda name: figures[name]["ours is faster by"])
        rate = f"{figures['ours']['examples_per_second']:,.0f} examples/s"
        lines.append(
            f"| training, batch {size:,} | {rate}: {_times(figures[_TUTORIAL])} the tutorial's "
            f"`fit`, {_times(figures[fastest])} the fastest peer ({fastest}) | `{_PEERS}` |"
        )
    for figure, label, scale, unit in _WHOLE:
        row = whole["figures"][figure]
        lines.append(
            f"| {label}, two epochs | {row['ours'] / scale:.2f} {unit}; the tutorial "
            f"{row['tutorial'] / scale:.2f} {unit} | `{_command(whole)}` |"
        )
    means = ", ".join(f"{figures['mean']:.4f} {name}" for name, figures in accuracy.items())
    lines.append(
        "| test accuracy after two epochs, mean of three seeds | "
        f"{means} | `.venv/bin/python -m benchmarks.accuracy --data path/to/imdb.npz` |"
    )
    return "\n".join(lines)


def table(results: Path) -> str:
    """Returns the comparison with the peers and with the tutorial's process, with the spread."""
    peers, whole, _ = _read(results)
    lines = [
        f"Machine: {_machine(peers[500])}. IMDB, the tutorial's network, float32, Adam, two "
        "threads each; compilation left out, data wait counted. Peers take turns, epoch by epoch. "
        "A rate has its 20th and 80th percentile over rounds, a ratio its minimum and maximum.",
        "",
        "| training, examples/s | batch 500 | ours faster by | batch 4,096 | ours faster by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in peers[500]["figures"]:
        cells = []
        for result in peers.values():
            figures = result["figures"].get(name)
            cells += _peer_cells(figures) if figures else ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| whole process, two epochs | ours | the tutorial | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for figure, label, scale, unit in _WHOLE:
        row = whole["figures"][figure]
        low, high = row["ratio_range"]
        ours, theirs = (f"{row[name] / scale:.2f} {unit}" for name in ("ours", "tutorial"))
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {label} | {ours} | {theirs} | {ratio} |")
    lines += [
        "",
        f"(Medians and ranges; `{_command(whole)}`, in the environment that the first command "
        "makes: Keras would import matplotlib and JAX, too)",
    ]
    return "\n".join(lines)


def _read(results: Path) -> tuple[dict[int, Any], dict[str, Any], dict[str, Any]]:
    """Reads the results of the peers by batch size, of the whole process, and the accuracy by
    precision."""
    peers = {size: json.loads((results / f"peers-{size}.json").read_text()) for size in (500, 4096)}
    whole = json.loads((results / "against-tutorial.json").read_text())
    return peers, whole, json.loads((results / "accuracy.json").read_text())["test_accuracy"]


def _command(whole: dict[str, Any]) -> str:
    return f"{_AGAINST_TUTORIAL} --rounds {len(whole['rounds'])}"


def _times(figures: dict[str, Any]) -> str:
    low, high = figures["ratio_range"]
    return f"{figures['ours is faster by']:.1f} times ({low:.1f} to {high:.1f})"


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
    """Draws a bar for each peer and batch size, with the range over rounds."""
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


def gpu_programs(record: dict[str, Any]) -> str:
    """Returns the launches of programs on one GPU with resident input, as a Markdown table."""
    rows = [
        row
        for row in record["programs"]
        if (row["table"], row["gpus"], row["input"]) == ("dense", 1, "resident")
    ]
    cards = list(dict.fromkeys(row["card"] for row in rows))
    lines = [
        f"| launches a step, 500 / 4,096 rows | {' | '.join(cards)} |",
        f"| --- |{' --- |' * len(cards)}",
    ]
    counts: dict[str, dict[tuple[str, int], int]] = {}
    for row in rows:
        name = f"{row['kind']}, {row['implementation']}, {row['precision']}"
        counts.setdefault(name, {})[row["card"], row["rows"]] = row["launches_per_step"]
    for name, own in counts.items():
        cells = [f"{own[card, 500]} / {own[card, 4096]}" for card in cards]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def between_marks(text: str, name: str, content: str) -> str:
    """Returns a text with new content between its marks of a name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    return f"{text.split(begin)[0]}{begin}\n{content}\n{end}{text.split(end)[1]}"


def main() -> None:
    programs = json.loads((_RESULTS / "gpu-programs.json").read_text())
    for page, name, content in (
        ("README.md", "results", summary(_RESULTS)),
        ("docs/benchmark.md", "peers", table(_RESULTS)),
        ("docs/multi_gpu.md", "programs", gpu_programs(programs)),
    ):
        path = _ROOT / page
        with replacing(path) as beside:
            text = between_marks(path.read_text(encoding="utf-8"), name, content)
            beside.write_text(text, encoding="utf-8")
    plot(_RESULTS, _ROOT / "docs" / "peers.png")


if __name__ == "__main__":
    main()
