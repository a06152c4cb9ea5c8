"""Every command and piece of code in README, docs/ and the notebook, run in the order of a reader.

Commands of the harness run in this process and on small data: `path/to/` becomes a folder of small
files in Keras's format, and the synthetic corpus gets fewer rows.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
from absl import flags
from tensorflow.python.tools import saved_model_cli

from harness.base.decoding import from_mapping
from harness.base.files import write_json
from harness.cli import main as command_line
from harness.data.options import SyntheticOptions
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.tools import recipe
from harness.tools.experiment import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
NOTEBOOK = ROOT / "docs" / "own_model.ipynb"
NOT_RUN = {
    "python3 -m pip": "takes minutes; tests/test_packaging.py builds the wheel",
    "./scripts/test": "runs this test",
    "./scripts/check": "is the gate, which CI runs beside this test",
    "./scripts/harness tensorboard": "never ends; tests/browser/ opens it",
    "./scripts/harness train --data imdb": "README has it with the file's name",
    "./scripts/harness train --data path/to/imdb.npz --run-dir runs/job": "tests/harness/cli/",
    "./scripts/harness train --data path/to/imdb.npz --validation-split": "test_best.py there",
    "./scripts/harness train --hidden-units": "tests/harness/cli/ trains so",
    "./scripts/harness train --optimizer adamw": "tests/harness/program/test_optimizer.py",
    "./scripts/harness train --validation-split": "tests/harness/cli/test_best.py",
    "./scripts/harness train --table-optimizer": "tests/harness/program/test_tables.py",
    "./scripts/harness train --replicas 2": "tests/harness/cli/test_same_losses.py",
    "./scripts/harness train --precision mixed_float16": "tests/harness/cli/test_train.py",
    "./scripts/harness train --epochs 6 --profile-steps": "tests/harness/cli/test_profile.py",
    "./scripts/harness smoke": "takes a minute; tests/harness/cli/test_smoke.py runs parts of it",
    "./scripts/harness bench": "takes minutes; tests/harness/cli/test_bench.py runs short ones",
    "./scripts/harness tune": "takes minutes; tests/harness/cli/test_tune.py runs short ones",
    "./scripts/harness train --config runs/tune": "the settings of test_tune.py there",
    "./scripts/benchmark": "takes minutes",
    "./scripts/bench-peers": "takes ten minutes, and installs the peers",
    ".venv/bin/python scripts/options_page.py": "tests/scripts/test_pages.py",
    ".venv/bin/python -m scripts.api_page": "tests/scripts/test_pages.py",
    "./scripts/gpu-first-hour": "takes minutes, and is for a GPU",
    "./scripts/gpu-programs": "takes minutes; CI runs it with --short",
    ".venv/bin/python -m benchmarks.": "takes minutes",
    ".venv/bin/python -m tests.emulated_gpu": "takes minutes; tests/emulated_gpu/ has its parts",
    ".venv/bin/python benchmarks/peers/tutorial.py": "takes 10 GB of memory",
}
"""The beginnings of commands that are not run here, with the reason."""
# Rows of which 1,000 are trained on, without and with a tenth for validation: no last batch is
# smaller and has a program of its own.
SYNTHETIC_ROWS, AND_VALIDATION = 1_250, 1_388
TOOLS = {"keras_tuner", "mlflow", "ray", "wandb"}
"""Packages of examples that are run only where they are installed."""


@dataclass(frozen=True)
class Example:
    """A command, or a block of code."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def why_not(self) -> str | None:
        """Why it is not run; None if it is."""
        reasons = (reason for start, reason in NOT_RUN.items() if self.text.startswith(start))
        return next(reasons, None) if self.language == "sh" else None


def examples_of(page: str) -> list[Example]:
    """The commands and blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for block in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text[: block.start(2)].count("\n") + 1
        if block[1] == "console":  # commands behind `$ `, with their output
            shown = enumerate(block[2].splitlines())
            found += [Example(page, line + n, "sh", s[2:]) for n, s in shown if s.startswith("$ ")]
            continue
        if block[1] != "sh":
            found.append(Example(page, line, block[1], block[2]))
            called = re.findall(r"\./scripts/[^>\n]*", block[2]) if block[1] == "yaml" else ()
            found += [Example(page, line, "sh", command) for command in called]
            continue
        for offset, written in enumerate(block[2].splitlines()):
            if command := shlex.join(shlex.split(written, comments=True)):
                found.append(Example(page, line + offset, "sh", command))
    found += [
        Example(page, text[: span.start()].count("\n") + 1, "sh", span[1])
        for span in re.finditer(r"`(\.(?:/scripts|venv/bin)/[^`\n]+)`", text)
        if span[1] not in (".venv/bin/python", "./scripts/harness")
    ]
    return sorted(found, key=lambda example: example.line)


EXAMPLES = [example for page in PAGES for example in examples_of(page)]
FIRST = next(example for example in EXAMPLES if example.why_not is None)


@dataclass(frozen=True)
class Reader:
    """Reads each page in a folder of its own."""

    folder: Path
    data: Path
    names: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the Python of a page has defined so far."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, logical_devices: list[str]) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"), small_files(tmp_path_factory.mktemp("data")))


def small_files(folder: Path) -> Path:
    """An imdb.npz and a word index, tables of texts, baskets and ids. Too small for the cache."""
    rng = np.random.default_rng()
    parts: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        labels = rng.integers(0, 2, 7_500)
        ids = np.empty(len(labels), object)
        for row, label in enumerate(labels):
            ids[row] = (1 + 2 * rng.integers(0, 400, 20) + label).tolist()
        parts |= {f"x_{part}": ids, f"y_{part}": labels}
    np.savez_compressed(folder / "imdb.npz", **parts)
    words = ["a", "wonderful", "film", "boring", *(f"word{rank}" for rank in range(5, 800))]
    write_json(folder / "imdb_word_index.json", {w: rank for rank, w in enumerate(words, 1)})
    texts, lines, baskets, rows = ["review,sentiment"], [], [], []
    for row in range(1_000):
        ids = 2 * rng.integers(0, 50, 5) + row % 2
        text, label = f"a {' '.join(words[token] for token in ids)} film", ("bad", "good")[row % 2]
        texts.append(f"{text},{label}")
        lines.append(f"__label__{label} {text}")
        labels = ["even", "odd"][row % 2 :: 2] + ["large"] * (row > 500)
        baskets.append(json.dumps({"items": [words[token] for token in ids], "labels": labels}))
        rows.append(f"{row % 2} {' '.join(f'{token + 1}:1' for token in np.unique(ids))}")
    (folder / "reviews.csv").write_text("\n".join(texts))
    (folder / "fasttext.txt").write_text("\n".join(lines))
    (folder / "baskets.jsonl").write_text("\n".join(baskets))
    (folder / "rows.svm").write_text("\n".join(rows))
    (folder / "ml-100k").mkdir()
    ratings = [f"{user}\t{item}\t4\t0" for user in range(250) for item in range(user % 7, 90, 7)]
    (folder / "ml-100k" / "u.data").write_text("\n".join(ratings))
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example(example: Example, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = reader.folder / example.page
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KERAS_HOME", str(reader.data / "keras"))
    monkeypatch.setattr(recipe, "_LEAST_ROWS", 10**9)  # tests/harness/tools/test_recipe.py searches
    text = example.text.replace("path/to/", f"{reader.data}/")
    text = re.sub(r"--data imdb\b(?!\.)", f"--data {reader.data}/imdb.npz", text)
    if example.why_not:
        check_command(shlex.split(re.sub(r"--config \S+", "", text)))  # of a file that nobody wrote
    elif example.language == "toml":
        from_mapping(TrainConfig, tomllib.loads(text), where=str(example))
    elif example.language == "python":
        for package in TOOLS & set(re.findall(r"^import (\w+)", text, re.MULTILINE)):
            warnings.simplefilter("ignore")  # which these packages give, and pytest restores
            pytest.importorskip(package)
        if 'load("synthetic"' in text:
            defaults = SyntheticOptions.__init__.__kwdefaults__
            rows = AND_VALIDATION if "validation_split=0.1" in text else SYNTHETIC_ROWS
            monkeypatch.setitem(defaults, "synthetic_rows", rows)
        exec(compile(text, str(example), "exec"), reader.names.setdefault(example.page, {}))
    elif example.language == "yaml":
        assert pytest.importorskip("yaml").safe_load(text)
    elif example.language == "bash":
        run_loop(text)
    elif example == FIRST:
        run_script(shlex.split(text))
    else:
        run_command(shlex.split(text))


def check_command(words: list[str]) -> None:
    """The program exists; the harness also knows the flags."""
    if words[0] == "./scripts/harness":
        command_line._parse(words[1:])
    elif words[1:2] == ["-m"]:
        assert importlib.util.find_spec(words[2]) is not None
    else:
        assert (ROOT / (words[1] if words[0] == ".venv/bin/python" else words[0])).is_file()


def run_command(words: list[str]) -> None:
    if words[0] == ".venv/bin/saved_model_cli":  # what it is, without its own 3 s of imports
        assert (ROOT / words[0]).is_file()
        flags.FLAGS(words)
        saved_model_cli.create_parser().parse_args([words[1]]).func()
        return
    assert words[0] == "./scripts/harness", "a command that is neither run nor in NOT_RUN"
    names_data = {"--data", "--config", "--resume"} & set(words)
    is_synthetic = words[1] in ("train", "profile", "bench") and not names_data
    if is_synthetic:
        words += ["--synthetic-rows", str(SYNTHETIC_ROWS)]
    assert command_line.main([last_checkpoint(word) for word in words[1:]]) == 0


def run_loop(text: str) -> None:
    """Runs a shell's loop, in which the harness is started as a module."""
    program = text.replace("./scripts/harness", f"{shlex.quote(sys.executable)} -m harness")
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, timeout=600, check=False, env=path
    )
    assert "test accuracy" in done.stdout, done


def last_checkpoint(word: str) -> str:
    """The checkpoint in place of one that only the real data has."""
    if re.search(r"/ckpt-\d+\.npz$", word):
        return str(max(Path(word).parent.iterdir(), key=lambda path: path.stat().st_mtime))
    return word


def run_script(words: list[str]) -> None:
    """Runs the script in a separate process, as a reader's first command.
    tests/harness/cli/test_train.py trains on all rows."""
    done = subprocess.run(
        [ROOT / words[0], *words[1:], "--synthetic-rows", "5000"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout


def test_what_is_listed_as_not_run_is_on_a_page() -> None:
    unused = [s for s in NOT_RUN if not any(e.text.startswith(s) for e in EXAMPLES)]
    assert unused == []


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
    assert [t for t in targets if not ((ROOT / page).parent / t).exists()] == []
    pictures = [(ROOT / page).parent / t for t in targets if t.endswith(".png")]
    assert [path for path in pictures if path.stat().st_size > 200_000] == []


def test_node_finds_the_ids_and_weights_of_the_vocabulary() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    ids = {"a": 1, "été": 2, "a été": 3, "don't": 4, "ας": 5, "( ας": 7}
    plain = Vocabulary(ids=ids, num_tokens=8, start_id=0, unknown_id=6, ngrams=2)
    weighted = replace(plain, unknown_id=None, weighting="tf_idf", normalize="l2", idf=[0.5] * 8)
    marks = replace(plain, tokenizer="punctuation")
    of_characters = {"▁": 1, "a": 2, "▁a": 3, "été": 4, "😀": 5, "é": 7}
    characters = replace(plain, tokenizer="characters", ids=of_characters, ngrams=3)
    text = "A  ÉTÉ, a don't (ΑΣ) 😀\u3000other\x1c"
    binary = replace(weighted, weighting="binary", idf=None)
    for words in (plain, marks, weighted, binary, characters):
        known = {field.name: getattr(words, field.name) for field in fields(words)}
        program = f"""import {{ encode }} from "{ROOT}/docs/predict.mjs";
        console.log(JSON.stringify(encode({json.dumps(text)}, {json.dumps(known)})));"""
        command = [node, "--input-type=module", "-e", program]
        found = json.loads(subprocess.check_output(command, timeout=60))
        values = words.encode(text)
        splits = np.array([0, len(values)])
        row = RaggedSets(values=values, row_splits=splits, num_tokens=words.num_tokens)
        expected = words.weighted(row).unique().with_weights()
        order = np.argsort(found["ids"])
        assert np.array(found["ids"])[order].tolist() == expected.values.tolist()
        assert expected.weights is not None
        np.testing.assert_allclose(np.array(found["weights"])[order], expected.weights, rtol=1e-5)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook runs in a separate kernel, as for a reader."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert NOTEBOOK.stat().st_size < 100_000
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "mine.keras").is_file()
