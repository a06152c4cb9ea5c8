"""A sample of the random cases of benchmarks.differential, and the named ones.

They run in separate processes: TensorFlow keeps a part of every function that it has compiled.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


# Of 134 seeds, twelve in a row that draw the most endings and the most changes between fits.
@pytest.mark.parametrize("cases", ["--named", "--first 7000006 --cases 12"])
def test_the_trainer_gives_what_keras_gives(cases: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.differential", *cases.split()],
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
