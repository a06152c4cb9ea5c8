"""docs/options.md agrees with the settings."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "options_page.py"


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("options_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), f"run {SCRIPT.name}"
