"""The space of a search for each kind of data, and the settings of a trial."""

from dataclasses import fields
from typing import Any

import pytest
from optuna.distributions import IntDistribution

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.tools.tune.space import SearchConfig, Space, parameters


def test_texts_have_choices_of_their_own() -> None:
    asked = parameters(Space(), BuildOptions(), takes_texts=False)
    assert list(asked) == ["learning_rate", "width", "depth", "dropout", "weight_decay"]
    assert asked["width"] == IntDistribution(16, 256, log=True)
    asked = parameters(Space(), BuildOptions(), takes_texts=True)
    assert asked["ngrams"].choices == (1, 2)
    assert asked["num_tokens"].choices == (10_000, 30_000, 2**17)
    of_recipe = parameters(Space(), BuildOptions(), takes_texts=False, learning_rate=0.004)
    rate = of_recipe["learning_rate"]
    assert (rate.low, rate.high) == (0.0005, 0.032)
    fixed = BuildOptions(ngrams=3, num_tokens=500)
    asked = parameters(Space(), fixed, takes_texts=True)
    assert (asked["ngrams"].choices, asked["num_tokens"].choices) == ((3,), (500,))
    asked = parameters(Space(), BuildOptions(hash_bits=8), takes_texts=True)
    assert "num_tokens" not in asked
    asked = parameters(Space(num_tokens_choices=(7, 9, 7)), BuildOptions(), takes_texts=True)
    assert asked["num_tokens"].choices == (7, 9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"dropouts": ()},
            "--dropouts is empty; give the two ends of a range, the lower one first, or",
        ),
        ({"widths": (9, 3)}, "--widths is 9 3; give the two ends of a range, the lower one first"),
        ({"dropouts": (0.0, 1.0)}, r"--dropouts\[1\] is 1\.0; it must be a finite number"),
        ({"weight_decays": (0.0, 1.0)}, "--weight-decays begins at 0, which has no place on a"),
        (
            {"learning_rates": (0.0, 1.0)},
            r"--learning-rates\[0\] is 0\.0; it must be a finite number above 0",
        ),
    ],
)
def test_wrong_ranges(given: dict[str, Any], message: str) -> None:
    is_search = given.keys() <= {field.name for field in fields(SearchConfig)}
    with pytest.raises(InputError, match=message):
        (SearchConfig if is_search else Space)(**given)


@pytest.mark.parametrize(
    ("space", "build", "takes_texts", "message"),
    [
        ({"ngrams_choices": (1, 2)}, {}, False, "the data is not built from texts; leave it out"),
        ({"num_tokens_choices": (9,)}, {"hash_bits": 8}, True, "but --hash-bits does that here"),
        (
            {"ngrams_choices": (1, 2)},
            {"ngrams": 3},
            True,
            "--ngrams is 3, and --ngrams-choices names 1 2; leave out one of the two",
        ),
    ],
)
def test_choices_that_do_not_apply(
    space: dict[str, Any], build: dict[str, Any], takes_texts: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        parameters(Space(**space), BuildOptions(**build), takes_texts=takes_texts)
