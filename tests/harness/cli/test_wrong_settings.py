"""Wrong settings: exit code 2 and one message, which names the setting, its value and the remedy,
before anything is written. tests/test_messages.py reads every other message in the source."""

import re
import shlex
from pathlib import Path

import pytest

from tests.harness.cli.runs import SMALL, call

REMEDY = re.compile(
    r"\b(must|set|give|choose|name|needs?|write|leave|exclude|lower|reduce|lists?|first)\b", re.I
)
# The last flag is the wrong one.
TRAIN = f"train {shlex.join(SMALL)}"
WRONG = [
    f"{TRAIN} --batch-size 0",
    f"{TRAIN} --batch-size 1601",
    f"{TRAIN} --replicas 2 --batch-size 101",
    f"{TRAIN} --steps-per-dispatch -1",
    f"{TRAIN} --replicas 0",
    f"{TRAIN} --seed 2147483648",
    f"{TRAIN} --synthetic-rows 2147483647",
    f"{TRAIN} --validation-split 1.0",
    f"{TRAIN} --epochs 0",
    f"{TRAIN} --optimizer magic",
    f"{TRAIN} --activation threshold",
    f"{TRAIN} --activation glu",
    f"{TRAIN} --learning-rate nan",
    f"{TRAIN} --warmup 32",
    f"{TRAIN} --hidden-units 0",
    f"{TRAIN} --dropout 1.5",
    f"{TRAIN} --early-stopping 1",
    f"{TRAIN} --test off",
    f"{TRAIN} --checkpoint-every often",
    f"{TRAIN} --telemetry-hz -1.0",
    f"{TRAIN} --telemetry-hz 101",
    f"{TRAIN} --tensorboard off --histograms 1",
    f"{TRAIN} --profile-steps 16 10",
    f"{TRAIN} --profile-steps 32 40",
    f"{TRAIN} --resume",
    "evaluate --model m --batch-size 0",
    "smoke --replicas 3",
    f"profile {shlex.join(SMALL)} --steps 0",
    f"profile {shlex.join(SMALL)} --batch-size 5000",
    "bench --repeats 0",
    "bench --seconds nan",
    "bench --against main --fail-if-slower 100%",
    "bench --against main --fail-if-slower 5%5",
    "tune --validation-split 0",
    "tune --replicas 2",
    "tune --jobs 0",
    "tune --resume",
    "tensorboard . --port 70000",
]


@pytest.mark.parametrize("words", [words.removeprefix("train ") for words in WRONG])
def test_a_wrong_setting_is_one_message(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(words)
    result = call(*(["train"] if words.startswith("--") else []), *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result
    assert result.err.startswith("error: ")
    *_, flag, value = ["", *arguments]
    named = flag if flag.startswith("--") else value
    assert named in result.err, result.err
    told = re.sub(r"\D", "", result.err)
    assert named == value or "GB free" in result.err or re.sub(r"\D", "", value) in told, result.err
    assert REMEDY.search(result.err), result.err
    assert not list(tmp_path.iterdir())
