"""docs/options.md and docs/api.md agree with the settings and the docstrings."""

import pydoc

import pytest

import harness
from scripts import api_page, options_page


@pytest.mark.parametrize("made", [options_page, api_page])
def test_the_page_is_current(made: object) -> None:
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), f"run {made.__name__}"


def test_help_describes_the_fields_of_a_class() -> None:
    assert "the share of each row's label" in pydoc.render_doc(harness.Task)
