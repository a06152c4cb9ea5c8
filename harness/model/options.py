"""The options of the network of `harness train`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from harness.base.checks import Checked, Number, Whole, require, require_count
from kernels.multi_hot import RowOptimizer

TableDtype = Literal["float32", "bfloat16"]
TableOptimizer = Literal["auto", "dense", "adam", RowOptimizer]
_MOST_LAYERS = 1_000  # A deeper network cannot be trained without shortcuts

_USUAL_DROPOUT = (0.3, 0.2, 0.0)  # The tutorial's dropout rates


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The network: a multi-hot layer, then fully connected ones. Defaults are the tutorial's."""

    hidden_units: Annotated[tuple[int, ...], Whole(0)] = (50, 50, 50)
    """Units of each hidden layer; the first is the multi-hot layer. 0 alone: no hidden layer, a
    linear model."""
    dropout: Annotated[tuple[float, ...], Number(least=0, below=1)] = _USUAL_DROPOUT
    """Dropout rate after each hidden layer; one number holds for all. The default fits any number
    of layers: only the first two have rates above 0."""
    activation: str = "relu"
    """Activation of the hidden layers, by Keras's name."""
    table_dtype: TableDtype = "float32"
    """Number type of the multi-hot layer's table. `bfloat16` takes half of the memory; it needs a
    --table-optimizer of touched rows (sgd, adagrad, lazy_adam), which rounds its updates up or down
    by chance, so that small ones count on average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.hidden_units) > 0, "--hidden-units is empty; name at least one layer")
        require_count("the number of --hidden-units", len(self.hidden_units), most=_MOST_LAYERS)
        require(
            self.is_linear or 0 not in self.hidden_units,
            "--hidden-units has a layer of 0 units; give 0 alone for a linear model",
        )
        layers = len(self.hidden_units)
        rates = self.dropout
        if rates == _USUAL_DROPOUT:
            rates = (0.0,) if self.is_linear else (*rates, *[0.0] * layers)[:layers]
        elif len(rates) == 1:
            rates *= layers
        require(
            len(rates) == layers,
            f"--dropout has {len(rates)} rates for {layers} hidden layers "
            f"({' '.join(map(str, self.hidden_units))}); give one rate for each, or one for all",
        )
        require(
            not self.is_linear or not any(rates),
            "--hidden-units 0 makes a linear model, which has no hidden layer to drop units of; "
            "leave out --dropout",
        )
        object.__setattr__(self, "dropout", rates)

    @property
    def is_linear(self) -> bool:
        return self.hidden_units == (0,)
