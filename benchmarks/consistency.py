"""Do the figures of `fit` and `harness bench` agree with each other, and with a clock outside?

    .venv/bin/python -m benchmarks.consistency --cases 6

Draws rows, batch sizes and epochs, trains each in a process of its own, and measures the same
batch sizes by `harness bench`. Steps/s times the batch size must be the examples/s within 2 %, p20
<= p50 <= p80, and the mean within 3 % of this process's clock around the training. Exit code 1 if
one of them is not so.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_SECONDS = 4.0  # of training: a fixed 10 ms would be 0.3 %
_FIT = """
import sys
import harness, keras
rows, batch_size, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
data = harness.load("synthetic", synthetic_rows=rows)
net = lambda inputs: keras.layers.Dense(1)(harness.MultiHotDense(50, num_tokens=10000)(inputs))
trainer = harness.Trainer(net, batch_size=batch_size)
trainer.fit(data.train, epochs=3, verbose=False)  # compiles, and tells how long an epoch takes
epochs = max(1, round(3 * seconds / trainer.last.summary.train_seconds))
say = keras.callbacks.LambdaCallback(
    on_train_begin=lambda logs: print("begin", flush=True),
    on_train_end=lambda logs: print("end", flush=True),
)
trainer.fit(data.train, epochs=epochs, callbacks=[say], verbose=False)
found = trainer.last.summary
print(found.steps_per_second, found.examples_per_second, found.mean_steps_per_second,
      found.mean_examples_per_second, found.examples, found.compile_seconds)
"""


def fits(cases: list[tuple[int, int]]) -> Iterator[tuple[str, list[bool], str]]:
    for rows, batch_size in cases:
        command = [sys.executable, "-c", _FIT, *map(str, (rows, batch_size, _SECONDS))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = itertools.islice(process.stdout, 2)
            times = {line.strip(): time.perf_counter() for line in said}
            figures = [float(word) for word in process.stdout.read().split()]
        assert process.returncode == 0
        steps, examples, mean_steps, mean_examples, total, compile_seconds = figures
        outside = total / (times["end"] - times["begin"] - compile_seconds)
        holds = [
            abs(steps * batch_size / examples - 1) < 0.02,
            abs(mean_steps * batch_size / mean_examples - 1) < 0.02,
            abs(mean_examples / outside - 1) < 0.03,
        ]
        text = f"{examples:,.0f} examples/s, mean {mean_examples:,.0f}, outside {outside:,.0f}"
        text += f" ({times['end'] - times['begin']:.2f} s, {compile_seconds:.2f} s compile)"
        yield f"fit, {rows:,} rows, batch size {batch_size:,}", holds, text


def cells(rows: int, sizes: list[int]) -> Iterator[tuple[str, list[bool], str]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "bench", "--batch-size", *map(str, sizes)]
        command += ["--synthetic-rows", str(rows * 5 // 4), "--repeats", "1"]  # a fifth is tested
        command += ["--seconds", str(_SECONDS), "--run-dir", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        content = json.loads((Path(folder) / "results.json").read_text())
    for row in content["rows"]:
        figures, size = row["figures"], row["cell"]["batch_size"]
        p20, p50, p80 = (figures[f"examples_per_second{p}"] for p in ("_p20", "", "_p80"))
        trained, seconds = np.sum(row["stretches"], axis=0)[:2]
        outside = trained / row["clock_seconds"]
        holds = [
            abs(figures["steps_per_second"] * size / p50 - 1) < 0.02,
            p20 <= p50 <= p80,
            abs(trained / seconds / outside - 1) < 0.03,
        ]
        text = f"{p50:,.0f} examples/s, mean {trained / seconds:,.0f}, outside {outside:,.0f}"
        yield f"bench, {rows:,} rows, batch size {size:,}", holds, text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    rows = rng.integers(2_000, 200_000, arguments.cases).tolist()
    sizes = [int(min(n, 2 ** rng.uniform(5, 16))) for n in rows]
    wrong = 0
    fitted = fits([*zip(rows, sizes, strict=True)])
    for name, holds, text in itertools.chain(fitted, cells(max(rows), sorted(set(sizes)))):
        wrong += not all(holds)
        print(f"{name}: {text}{'' if all(holds) else '  INCONSISTENT'}", flush=True)
    print(f"{wrong} inconsistent")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
