"""The most frequent tokens, counted at once or by parts."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.build import counting
from harness.data.build.counting import BlockCounts, most_frequent

BLOCKS = st.lists(
    st.dictionaries(st.text("abcdé", max_size=2), st.integers(0, 4)), min_size=1, max_size=6
)


@given(
    blocks=BLOCKS, most=st.integers(1, 20), min_count=st.integers(1, 3), at_once=st.integers(2, 9)
)
def test_parts_of_the_tokens_give_what_all_give(
    blocks: list[dict[str, int]], most: int, min_count: int, at_once: int
) -> None:
    def counted() -> list[BlockCounts]:
        return [
            (
                pyarrow.array([token.encode() for token in block], pyarrow.large_binary()),
                np.array(list(block.values()), np.int64),
            )
            for block in blocks
        ]

    expected: Counter[str] = Counter()
    for block in blocks:
        for token, count in block.items():
            if count:
                expected[token] += count  # in the order in which they appear
    kept = [token for token, count in expected.most_common() if count >= min_count][:most]
    how: dict[str, Any] = {"most": most, "min_count": min_count}
    num_tokens = sum(map(len, blocks))
    assert most_frequent(counted, num_tokens=num_tokens, **how) == kept
    # More than `at_once` tokens are counted in several passes; checksums may be equal by chance.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counting, "_MOST_WAITING", 0)
        patched.setattr(counting, "_MOST_AT_ONCE", at_once)
        assert most_frequent(counted, num_tokens=num_tokens, **how) == kept
