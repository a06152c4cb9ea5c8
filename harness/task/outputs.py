"""Several outputs of a model, with a task for each, as in Keras's `compile`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from harness.base.checks import require
from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.model.network import named_outputs
from harness.task.task import LossResult, ResolvedTask, Task, task_of_outputs


@dataclass(frozen=True)
class OutputTasks:
    """The tasks of a model's outputs, by their names; other outputs are only predicted."""

    parts: Mapping[str, Task]
    kind, seen, from_logits = "outputs", None, None

    def config(self) -> dict[str, Any]:
        own = ((name, part.config()) for name, part in self.parts.items())
        parts = {f"{name}.{key}": value for name, config in own for key, value in config.items()}
        return {"task": self.kind, **parts}


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedOutputs:
    """The tasks of several outputs, in place of a `ResolvedTask`. Their labels are the columns of
    one float32 array, in the order of the names; so are the outputs in predictions."""

    parts: Mapping[str, ResolvedTask]  # sorted
    widths: Mapping[str, int]  # The number of columns of every output, in the model's order
    in_list: bool = False  # Whether the model gives a list of outputs, not a mapping
    is_known: bool = True

    kind, thresholds, is_measured = "outputs", None, False

    def settled(self, examples: Examples, *, width: int | None = None) -> "ResolvedOutputs":
        """Returns itself: a copy of a trainer has this in place of `OutputTasks`."""
        return self

    @property
    def num_outputs(self) -> int:
        return sum(self.widths.values())

    @property
    def num_classes(self) -> int:
        """The number of outputs with a task."""
        return len(self.parts)

    @property
    def why(self) -> str:
        return ", ".join(f"{name}: {part.described}" for name, part in self.parts.items())

    def _names(self, of: Callable[[ResolvedTask], Sequence[str]]) -> list[str]:
        """Returns names of the parts under those that Keras gives them in logs."""
        single = len(self.parts) == 1
        own = ((name, each) for name, part in self.parts.items() for each in of(part))
        return [each if single else f"{name}_{each}" for name, each in own]

    @property
    def row_metrics(self) -> tuple[str, ...]:
        losses = self._names(lambda _: ["loss"]) if len(self.parts) > 1 else []
        return (*losses, *self._names(lambda part: part.row_metrics))

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (*self.row_metrics, *(metric.name for metric in self.stateful))

    @property
    def evaluation_only(self) -> frozenset[str]:
        return frozenset(self._names(lambda part: sorted(part.evaluation_only)))

    @cached_property
    def stateful(self) -> tuple[keras.metrics.Metric, ...]:
        every = [metric for part in self.parts.values() for metric in part.stateful]
        named = self._names(lambda part: [metric.name for metric in part.stateful])
        return tuple(map(_renamed, every, named))

    def check_outputs(self, outputs: Any, of: str) -> None:
        named = named_outputs(outputs, [*self.widths])
        for name, part in self.parts.items():
            part.check_outputs(named[name], f"the output {name!r} of {of}")

    def check_labels(self, examples: Examples) -> None:
        _require_same(self.parts, self.widths, examples)
        for name, part in self.parts.items():
            part.check_labels(examples.of_output(name))

    def check_gradient(self, examples: Examples) -> None:
        for name, part in self.parts.items():
            part.check_gradient(examples.of_output(name))

    def check_devices(self, num_devices: int) -> None:
        for part in self.parts.values():
            part.check_devices(num_devices)

    def compute_loss(
        self,
        labels: tf.Tensor,
        outputs: Any,
        *,
        training: bool = True,
        inputs: Mapping[str, Any] | None = None,
    ) -> LossResult:
        """Computes the sum of the outputs' losses times their weights for each row, and what
        metrics need, from labels [B, columns] and the model's outputs."""
        by_name = named_outputs(outputs, [*self.widths])
        sizes = [part.num_labels for part in self.parts.values()]
        columns = dict(zip(self.parts, tf.split(labels, sizes, axis=1), strict=True))
        results = {
            name: part.compute_loss(columns[name], by_name[name], training=training, inputs=inputs)
            for name, part in self.parts.items()
        }
        weighted = (results[n].of_rows * part.loss_weight for n, part in self.parts.items())
        own = [result.of_rows for result in results.values()]
        return LossResult(
            of_rows=tf.add_n([*weighted]),
            hits=[hits for result in results.values() for hits in result.hits],
            compared=[pair for result in results.values() for pair in result.compared],
            of_outputs=own if len(own) > 1 else [],
        )

    def by_output(self, predicted: Any) -> Any:
        """Returns predictions [rows, columns] as the model gives them, an array for each output."""
        ends = [*accumulate(self.widths.values())]
        places = zip(self.widths.items(), ends, strict=True)
        found = {name: predicted[:, end - width : end] for (name, width), end in places}
        return [*found.values()] if self.in_list else found


def _renamed(metric: keras.metrics.Metric, name: str) -> keras.metrics.Metric:
    """Returns a shallow copy, of the same variables; that of `copy.copy` goes through a file."""
    found = object.__new__(type(metric))
    vars(found).update({**vars(metric), "name": name})
    return found


AnyTask: TypeAlias = ResolvedTask | ResolvedOutputs
GivenTask: TypeAlias = Task | OutputTasks | AnyTask  # the last one of a trainer's copy


def settled(task: GivenTask, outputs: Any, names: Sequence[str], examples: Examples) -> AnyTask:
    """Returns a task for rows with labels like those of `examples`, or what is known of it without
    labels. `outputs` are a model's as Keras tensors: one, a mapping, or a sequence by `names`."""
    labels, several = examples.labels, not isinstance(outputs, keras.KerasTensor)
    if several and not isinstance(outputs, Mapping):
        require(
            len({*names}) == len(outputs),
            f"the model gives a list of {len(outputs)} outputs, whose layers name {[*names]}; give "
            "outputs as a mapping from their names",
        )
    by_name = named_outputs(outputs, names) if several else {"": outputs}
    for name, each in by_name.items():
        shape = list(getattr(each, "shape", []))
        require(
            not several or (len(shape) == 2 and shape[-1] is not None),
            f"the model's output {name!r} is a {type(each).__name__} {shape}; give a tensor [rows, "
            "outputs] for each",
        )
    if labels is not None and (several or isinstance(labels, Mapping) or hasattr(task, "parts")):
        if isinstance(task, Task):  # for each output
            task = OutputTasks(dict.fromkeys(examples.labels_by_output, task))
        _require_same(getattr(task, "parts", {"": task}), by_name, examples)
    weight = getattr(task, "loss_weight", 1)
    require(
        several or weight == 1,
        f"loss_weight is {weight}, which is for one of several outputs; leave it out",
    )
    if labels is not None and not isinstance(task, OutputTasks):
        return task.settled(examples, width=None if several else [None, *outputs.shape][-1])
    widths = {name: each.shape[-1] for name, each in by_name.items()}
    in_list = not isinstance(outputs, Mapping)
    if isinstance(task, OutputTasks) and labels is not None:
        own = {
            name: part.settled(examples.of_output(name), width=widths[name])
            for name, part in sorted(task.parts.items())
        }
        return ResolvedOutputs(parts=own, widths=widths, in_list=in_list)
    own = {name: task_of_outputs(each.shape) for name, each in sorted(by_name.items())}
    if not several:
        return own[""]
    return ResolvedOutputs(parts=own, widths=widths, in_list=in_list, is_known=False)


def numbered(task: GivenTask, examples: Examples, like: Examples | None = None) -> Examples:
    """Returns rows with class numbers in place of one-hot vectors, where a task is of one of many
    classes. Not where those of `like`, the rows to train on, are no such vectors."""
    labels = examples.labels_by_output
    parts = dict.fromkeys(labels, task) if isinstance(task, Task | ResolvedTask) else task.parts
    before = {} if like is None else like.labels_by_output
    flat = (n for n in labels.keys() & parts.keys() if getattr(before.get(n), "ndim", 1) == 1)
    numbers = {name: parts[name].class_numbers(examples, name) for name in flat}
    found = {name: own for name, own in numbers.items() if own is not None}
    if not found or isinstance(examples.labels, Mapping):
        return replace(examples, labels={**labels, **found}) if found else examples
    return replace(examples, labels=found[""], num_classes=labels[""].shape[1])


def _require_same(tasks: Mapping[str, Any], outputs: Mapping[str, Any], examples: Examples) -> None:
    labels, single = examples.labels_by_output, outputs.keys() == {""}
    if single and not (tasks.keys() == labels.keys() == {""}):
        raise InputError(
            f"the model has a single output; give its task and the labels of {examples.name} "
            "without a name"
        )
    known = ", ".join(map(repr, outputs))
    for what, names in (("tasks", tasks), (f"labels of {examples.name}", labels)):
        if others := [name for name in names if name not in outputs]:
            shown = ", ".join(map(repr, filter(None, others))) or "none"
            raise InputError(f"the {what} name the outputs {shown}, and the model has {known}")
    if labels.keys() != tasks.keys():
        shown = ", ".join(map(repr, sorted(labels.keys() ^ tasks.keys())))
        raise InputError(
            f"the outputs {shown} have only a task or only labels in {examples.name}; give "
            "both: harness.Trainer(model, task={name: ...}), harness.Examples(labels={name: ...})"
        )
