"""Checks of numbers, of shares, and of batches that devices divide, at their limits."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from harness.base.checks import (
    Number,
    check_batch,
    checked,
    parse_share,
    require_count,
    require_even_shares,
)
from harness.base.errors import InputError


def test_a_count_is_an_int32_from_its_limit_on() -> None:
    for value in (1, np.int64(7), 2**31 - 1):
        require_count("rows", value)
    require_count("rows", 0, least=0)
    for wrong in (0, 2**31, 1.0, True, "1", np.array([1])):
        with pytest.raises(InputError, match=r"rows is .* whole number from 1 to 2,147,483,647"):
            require_count("rows", wrong)


def test_limits_of_a_number() -> None:
    limits = Number(least=0.5, below=2.0)
    assert [limits.take(value) for value in (0.5, 1.9, 0.4, 2.0)] == [True, True, False, False]
    assert [Number(above=0.0).take(value) for value in (1e-9, 0.0)] == [True, False]
    assert not any(Number().take(value) for value in (math.nan, math.inf, -math.inf))


def test_values_of_a_mapping() -> None:
    assert checked(Mapping[str, float], {"a": 1}, "x") == {"a": 1.0}
    with pytest.raises(InputError, match=r"^x\.a is 'b'; it must be a number"):
        checked(Mapping[str, float], {"a": "b"}, "x")


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 0.05), ("0.05", 0.05), (" 7.5% ", 0.075), ("0", 0.0), ("99%", 0.99)],
)
def test_a_share_is_a_number_or_a_percentage(text: str, share: float) -> None:
    assert parse_share("--allowed", text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["1", "100%", "5", "-1%", "", "%", "nan", "1e-3"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--allowed is .* give a share below 1, as in 5% or 0.05"):
        parse_share("--allowed", text)


@pytest.mark.parametrize(
    ("batch_size", "replicas", "workers", "message"),
    [
        (10, 4, 1, "over 4 replicas; set --batch-size to 8 or 12, or"),
        (3, 4, 1, "over 4 replicas; set --batch-size to 4, or"),
        (10, 2, 2, "over 2 replicas of each of 2 workers; set --batch-size to 8 or 12, or"),
        (12, 4, 1, None),
        (12, 2, 3, None),
    ],
)
def test_a_batch_has_equal_shares(
    batch_size: int, replicas: int, workers: int, message: str | None
) -> None:
    if message is None:
        require_even_shares(batch_size, replicas, workers=workers)
        check_batch(batch_size=batch_size, rows=batch_size, replicas=replicas, workers=workers)
        return
    for check in (
        lambda: require_even_shares(batch_size, replicas, workers=workers),
        lambda: check_batch(batch_size=batch_size, rows=99, replicas=replicas, workers=workers),
    ):
        with pytest.raises(InputError, match=f"is {batch_size}, which does not divide {message}"):
            check()


def test_a_batch_has_no_more_rows_than_the_data() -> None:
    with pytest.raises(InputError, match=r"is 12 but the data set has 11 rows .* to 11 or less"):
        check_batch(batch_size=12, rows=11, replicas=1)
