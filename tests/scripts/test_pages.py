"""docs/options.md and docs/api.md agree with the settings and the docstrings."""

import pytest

from scripts import api_page, options_page


@pytest.mark.parametrize("made", [options_page, api_page])
def test_the_page_is_current(made: object) -> None:
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), f"run {made.__name__}"
