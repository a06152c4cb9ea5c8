"""The space of a search, a range or a list of choices for each setting, and the search's length."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from harness.base.checks import Checked, Number, Whole, flag_of, require
from harness.data.options import MAX_NGRAMS, BuildOptions

Pruner = Literal["median", "halving", "none"]
_NGRAMS = (1, 2)
_NUM_TOKENS = (10_000, 30_000, 2**17)
_LEARNING_RATES = (1e-4, 3e-2)
_FACTOR = 8  # between the recipe's learning rate and the ends of the range


@dataclass(frozen=True, kw_only=True)
class Space(Checked):
    """The settings to search. Two values are the ends of a range; a single one fixes the
    setting."""

    learning_rates: Annotated[tuple[float, ...], Number(above=0)] = ()
    """Range of the learning rate, on a logarithmic scale. Left out: 1/8 to 8 times the recipe's, or
    1e-4 to 3e-2 where there is none."""
    widths: Annotated[tuple[int, ...], Whole()] = (16, 256)
    """Range of the units of each hidden layer, on a logarithmic scale."""
    depths: Annotated[tuple[int, ...], Whole(0)] = (0, 3)
    """Range of the number of hidden layers; 0 is a linear model."""
    dropouts: Annotated[tuple[float, ...], Number(least=0, below=1)] = (0.0, 0.7)
    """Range of the dropout rate, the same after each hidden layer."""
    weight_decays: Annotated[tuple[float, ...], Number(least=0)] = (1e-4, 1.0)
    """Range of the weight decay, on a logarithmic scale; 0 alone: none."""
    ngrams_choices: Annotated[tuple[int, ...], Whole(1, MAX_NGRAMS)] = ()
    """Values of --ngrams to choose from, for texts. Left out: 1 2, unless --ngrams is given."""
    num_tokens_choices: Annotated[tuple[int, ...], Whole(5)] = ()
    """Values of --num-tokens to choose from, for texts. Left out: 10000 30000 131072, unless
    --num-tokens is given."""
    optimizer: str = "adamw"
    """Any Keras optimizer, by name."""
    activation: str = "relu"
    """Activation of the hidden layers, by Keras's name."""
    table_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the multi-hot layer's table, as for `harness train`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rates", "widths", "depths", "dropouts", "weight_decays"):
            values = getattr(self, name)
            is_range = len(values) in (1, 2) and values[0] <= values[-1]
            require(
                is_range or (name == "learning_rates" and not values),
                f"{flag_of(name)} is {' '.join(map(str, values)) or 'empty'}; give the two ends of "
                "a range, the lower one first, or one value to fix it",
            )
        require(
            self.weight_decays[0] > 0 or self.weight_decays[-1] == 0,
            "--weight-decays begins at 0, which has no place on a logarithmic scale; begin above 0",
        )


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Checked):
    """The number of trials, their length, and the objective."""

    trials: Annotated[int, Whole()] = 30
    """Settings to try, in all; with --resume, this includes those that were tried before."""
    epochs: Annotated[int | None, Whole()] = None
    """Passes over the training rows in a trial. Left out: the recipe's, or 10 without one."""
    early_stopping: Annotated[int | None, Whole()] = 2
    """End a trial after so many epochs without a better one; None: never. The best epoch counts. A
    recipe's learning rate falls to 0 with the last epoch, which counts then, unless this is
    given."""
    objective: Literal["accuracy", "loss"] = "accuracy"
    """The objective on the validation rows: the highest accuracy or the lowest loss."""
    pruner: Pruner = "median"
    """Trials to end early, once an epoch was no better than those before. `median`: trials that
    have done worse than the median of the others; `halving`: all but the best quarter after 1, 4,
    16 ... epochs; `none`: nothing."""
    timeout: Annotated[float | None, Number(above=0)] = None
    """End the search after so many seconds, the recipe's search included; but the first trial ends
    by itself. --resume goes on with trials that were stopped."""
    jobs: Annotated[Literal["auto"] | int, Whole()] = "auto"
    """Trials at the same time, each in a process of its own on its own GPU, or with its share of
    the CPU's cores. `auto`: one for each GPU; on a CPU one."""


def parameters(
    space: Space, build: BuildOptions, *, takes_texts: bool, learning_rate: float | None = None
) -> dict[str, Any]:
    """Returns Optuna's distribution of each setting, by name. Settings that `build` gives are
    fixed; `takes_texts` says whether words become ids, and `learning_rate` is the recipe's."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    decays, rates = space.weight_decays, space.learning_rates
    if not rates and learning_rate is not None:
        rates = (learning_rate / _FACTOR, learning_rate * _FACTOR)
    found: dict[str, Any] = {
        "learning_rate": FloatDistribution(*_ends(rates or _LEARNING_RATES), log=True),
        "width": IntDistribution(*_ends(space.widths), log=True),
        "depth": IntDistribution(*_ends(space.depths)),
        "dropout": FloatDistribution(*_ends(space.dropouts)),
        "weight_decay": FloatDistribution(*_ends(decays), log=decays[0] > 0),
    }
    is_hashed = build.hash_bits is not None
    for name, given, usual, applies in (
        ("ngrams", None if build.ngrams == 1 else build.ngrams, _NGRAMS, takes_texts),
        ("num_tokens", build.num_tokens, _NUM_TOKENS, takes_texts and not is_hashed),
    ):
        choices: tuple[int, ...] = tuple(dict.fromkeys(getattr(space, f"{name}_choices")))
        flag = flag_of(f"{name}_choices")
        why = "--hash-bits does that here" if takes_texts else "the data is not built from texts"
        ok = applies or not choices
        require(ok, f"{flag} chooses how texts become ids, but {why}; leave it out")
        require(
            given is None or not choices,
            f"{flag_of(name)} is {given}, and {flag} names {' '.join(map(str, choices))}; leave "
            "out one of the two",
        )
        if applies:
            choices = choices or (usual if given is None else (given,))
            found[name] = CategoricalDistribution(choices)
    return found


def settings_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    depth, decay = values["depth"], values["weight_decay"]
    return {
        "optimizer": space.optimizer,
        "learning_rate": values["learning_rate"],
        # None is the optimizer's default, which is not 0 for AdamW.
        "weight_decay": decay if decay > 0 or space.optimizer.lower() != "adam" else None,
        "hidden_units": [values["width"]] * depth or [0],
        "dropout": [values["dropout"]] * depth or [0.0],
        "activation": space.activation,
        "table_dtype": space.table_dtype,
        "recipe": "tutorial",  # the search decides
        **{name: values[name] for name in ("ngrams", "num_tokens") if name in values},
    }


def _ends(values: tuple[Any, ...]) -> tuple[Any, Any]:
    return values[0], values[-1]
