"""Help on the options."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

# The options of `train` that people set; `--help-all` lists all of them.
_SHOWN = frozenset(
    {
        *("data", "test_data", "text_column", "label_column", "ngrams", "validation_split"),
        *("recipe", "epochs", "early_stopping", "class_weight", "batch_size"),
        *("hidden_units", "dropout", "optimizer", "learning_rate", "learning_rate_schedule"),
        *("precision", "replicas", "run_dir", "resume", "overwrite", "report"),
    }
)


def for_help(kind: Any, settings: Any = None, *, shows_all: bool = True) -> type:
    """Returns a class like `kind` for help alone, with `settings` as its defaults: unless it shows
    all, tyro hides all but the usual options, and would refuse the others."""
    hints, texts = get_type_hints(kind, include_extras=True), texts_of(kind)
    body: dict[str, Any] = {name: getattr(kind, name) for name in ("__module__", "__qualname__")}
    body["__doc__"] = " ".join((kind.__doc__ or "").split())
    for one in fields(kind):
        value = one.default if one.default_factory is MISSING else one.default_factory()
        value = value if settings is None else getattr(settings, one.name)
        hint: Any = hints[one.name]
        if is_dataclass(hint):
            hint = for_help(hint, value, shows_all=shows_all)
            value = field(default_factory=hint)
        elif shows_all or one.name in _SHOWN:
            # tyro itself would end a line wherever the source does.
            hint = Annotated[hint, tyro.conf.arg(help=texts.get(one.name))]
        else:
            hint = Annotated[hint, tyro.conf.Suppress]
        hints[one.name] = hint
        if value is not MISSING:
            body[one.name] = value
    body["__annotations__"] = {one.name: hints[one.name] for one in fields(kind)}
    return dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind,), body))


def texts_of(kind: type) -> dict[str, str]:
    """Returns what stands below the fields of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for above, text in zip(tree.body, tree.body[1:], strict=False):
            match above, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(words))):
                    found[name] = " ".join(words.split())
    return found


def options(kind: type) -> Iterator[tuple[str, Any]]:
    """Yields the names and types of a command's settings, also of those in groups."""
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            yield from options(hint)
        else:
            yield name, hint
