"""Methods for Python programs: they name arguments, where the command line names flags."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from harness.base.errors import InputError, in_python
from harness.program.strategy import outside_scope

_FROM_KERAS = {
    "validation_data": "the rows to evaluate are the argument validation of fit",
    **dict.fromkeys(
        ("x", "y", "sample_weight"), "give rows as Examples(inputs=..., labels=..., weights=...)"
    ),
    "batch_size": "it is an argument of harness.Trainer",
    "learning_rate": "it belongs to the optimizer, as in optimizer=keras.optimizers.Adam(0.01)",
    **dict.fromkeys(("loss", "metrics", "class_weight"), "it is an argument of harness.Task"),
    "verbose": "only fit prints",
}  # Arguments of the methods of `keras.Model`, and what there is here instead
_Method = TypeVar("_Method", bound=Callable[..., Any])


def for_python(kind: type | None = None) -> Callable[[_Method], _Method]:
    """Decorates a method for Python programs: messages name arguments in place of flags, the method
    refuses keywords that it does not know, and its signature and docstring list the fields of the
    settings class `kind` in place of the last argument, `**`. NumPy's numbers become Python's. In
    the scope of a tf.distribute strategy, a method tells `_be_under` which, and runs outside of it.
    """

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)
        where = method.__qualname__.removesuffix(".__init__")
        if kind is not None:
            own = list(signature.parameters.values())[:-1]
            own.extend(inspect.signature(kind, eval_str=True).parameters.values())
            signature = signature.replace(parameters=own)
            # The source has the help text below each field, which the class itself does not keep.
            with contextlib.suppress(OSError):  # there may be no source
                listed = inspect.getsource(kind).partition("    def ")[0]
                method.__doc__ = f"{inspect.getdoc(method)}\n\n{listed}"

        @functools.wraps(method)
        def called(*positional: Any, **given: Any) -> Any:
            with in_python(), outside_scope() as strategy:
                for name in sorted(given.keys() - signature.parameters):
                    known = ", ".join(sorted(signature.parameters.keys() - {"self"}))
                    there = _FROM_KERAS.get(name, f"there are {known}")
                    raise InputError(f"{where} has no setting {name}; {there}")
                if len(positional) > 2:  # Keras takes rows and labels so
                    remedy = "rows and labels are a tuple, (rows, labels); others have names"
                    raise InputError(f"{where} has one argument without a name; {remedy}")
                if strategy is not None:
                    positional[0]._be_under(strategy)
                plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in given.items()}
                return method(*positional, **plain)

        called.__dict__["__signature__"] = signature
        return cast(_Method, called)

    return decorate
