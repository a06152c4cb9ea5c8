"""The differential test: one of its random cases, and its page. `.ci/run` has more of its cases."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_trainer_gives_what_keras_gives() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.differential", "--first", "7000006", "--cases", "1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_a_row_for_each_model_of_a_script() -> None:
    files = sorted((REPOSITORY / "benchmarks/differential").glob("script*.py"))
    code = "".join(path.read_text() for path in files)
    names = re.findall(r"^@script.*?^def (\w+)", code, re.MULTILINE | re.DOTALL)
    page = (REPOSITORY / "docs/your_own_model.md").read_text()
    section = page.partition("## Models from public scripts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[2:]
    assert sorted(rows) == sorted(name.replace("_", " ") for name in names)
