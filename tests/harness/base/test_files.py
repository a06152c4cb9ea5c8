"""JSON that any reader takes."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.files import json_text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_floats_read_back_exactly(value: float) -> None:
    assert json.loads(json_text({"x": value}))["x"].hex() == value.hex()


def test_floats_that_json_lacks_are_named() -> None:
    text = json_text({"a": (math.nan, [math.inf]), "b": {"c": -math.inf}, "d": 1})
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"a": ["NaN", ["Infinity"]], "b": {"c": "-Infinity"}, "d": 1}
    assert math.isnan(float(strict["a"][0]))
    assert float(strict["b"]["c"]) == -math.inf
