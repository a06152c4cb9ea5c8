"""Settings of data sets that make no sense are refused before anything is read."""

import re
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import DataConfig, ImdbOptions, SyntheticOptions, WordIds


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (WordIds, {"num_words": 0}, "--num-words is 0; choose from 1 to 2147483647"),
        (WordIds, {"skip_top": -1}, "--skip-top is -1; choose from 0 to 2147483647"),
        (WordIds, {"start_char": -1}, "--start-char is -1; choose from 0 to 2147483647"),
        (ImdbOptions, {"oov_char": -2}, "--oov-char is -2; choose from 0 to 2147483647"),
        (ImdbOptions, {"index_from": 2**31}, "--index-from is 2147483648; choose from 0 to"),
        (ImdbOptions, {"split": "half"}, "--split is 'half'; choose tutorial or standard"),
        (ImdbOptions, {"held_out_rows": 0}, "--held-out-rows is 0; choose from 1 to 2147483647"),
        (ImdbOptions, {"maxlen": 0}, "--maxlen is 0; choose from 1 to 2147483647"),
        (ImdbOptions, {"shuffle_seed": -1}, "--shuffle-seed is -1; choose from 0 to 2147483647"),
        (SyntheticOptions, {"synthetic_rows": 0}, "--synthetic-rows is 0; choose from 1 to"),
        (SyntheticOptions, {"synthetic_tokens": 99}, "--synthetic-tokens is 99; choose from 100"),
        (SyntheticOptions, {"synthetic_seed": 2**32}, "--synthetic-seed is 4294967296; choose"),
        (DataConfig, {"validation_split": 1.0}, "--validation-split is 1.0; choose from 0 to"),
        (DataConfig, {"split_seed": -1}, "--split-seed is -1; choose from 0 to 4294967295"),
    ],
)
def test_a_wrong_setting_is_one_message(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        kind(**settings)


def test_the_limits_themselves_are_accepted() -> None:
    ImdbOptions(num_words=None, skip_top=0, maxlen=1, start_char=None, oov_char=0, held_out_rows=1)
    SyntheticOptions(synthetic_rows=1, synthetic_tokens=100, synthetic_seed=2**32 - 1)
