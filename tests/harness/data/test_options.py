"""Settings of data sets that make no sense are refused before anything is read."""

import re
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import ImdbOptions, SyntheticOptions


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ImdbOptions, {"num_words": 0}, "--num-words is 0; choose from 1 to 2147483647"),
        (
            SyntheticOptions,
            {"synthetic_tokens": 99},
            "--synthetic-tokens is 99; choose from 100 to",
        ),
    ],
)
def test_a_wrong_setting_is_one_message(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        kind(**settings)


def test_the_limits_themselves_are_accepted() -> None:
    ImdbOptions(num_words=None, held_out_rows=1)
    SyntheticOptions(synthetic_rows=1, synthetic_tokens=100, synthetic_seed=2**32 - 1)
