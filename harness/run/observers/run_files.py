"""The names of a run folder's files, and the content of config.json and summary.json."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import read_json
from harness.run.history import Progress
from harness.run.machine import peak_rss_bytes
from harness.run.observers.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.run.records import Evaluation, Observer, Record, RunStart, Summary

CONFIG_FILE_NAME = "config.json"
SUMMARY_FILE_NAME = "summary.json"
MODEL_FILE_NAME = "model.keras"
REPORT_FILE_NAME = "report.html"
BEST_FILE_NAME = "best.keras"  # the model of the epoch with the lowest validation loss
CHECKPOINT_FOLDER_NAME = "checkpoints"
# Names of everything that a run writes, and that --overwrite removes, besides event files; profiles
# lie in the last.
WRITTEN = (
    *(CONFIG_FILE_NAME, SUMMARY_FILE_NAME, METRICS_FILE_NAME, MODEL_FILE_NAME, BEST_FILE_NAME),
    *(REPORT_FILE_NAME, CHECKPOINT_FOLDER_NAME, "plugins/profile"),
)
EVENT_FILES = "events.out.tfevents.*"  # TensorBoard calls a run by the folder that they lie in
RESOLVED = "resolved"
_OF_RUN = ("batch_size", "devices", "versions", "host")  # facts that summary.json has, too


class SummaryObserver(Observer):
    _run: RunStart

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():
                self._run = record
                write_json(Path(record.run_dir, CONFIG_FILE_NAME), resolved_config(record))
                for name in (SUMMARY_FILE_NAME, REPORT_FILE_NAME):
                    Path(record.run_dir, name).unlink(missing_ok=True)
            case Summary():
                # The fields of `Summary`, and each metric and choice, by name.
                run, content = self._run, dataclasses.asdict(record)
                del content["most_steps"]  # one of the choices says it
                # With validation rows alone no key begins with test_.
                choices, has_own = content.pop("choices"), run.dataset.validation_rows > 0
                shown = {"test": run.dataset.test_rows > 0 or not has_own, "validation": has_own}
                for rows, is_shown in shown.items():
                    found = content.pop(rows)
                    content |= {f"{rows}_{name}": found[name] for name in found if is_shown}
                content |= {name: getattr(run, name) for name in _OF_RUN}
                content["dataset"] = dataclasses.asdict(run.dataset)
                write_json(Path(run.run_dir, SUMMARY_FILE_NAME), content | choices)


def summarize(
    start: RunStart,
    progress: Progress,
    *,
    test: Evaluation | None,
    validation: Evaluation | None,
    figures: Mapping[str, float],
    wall_seconds: float,
    **scaling: Any,
) -> Summary:
    """Returns the summary of a run, from the evaluations of the saved model, and `figures` measured
    on the test rows or, without any, on the validation rows. `scaling` is of several workers."""
    windows, telemetry = progress.windows, progress.telemetry
    joules, num_gpus = telemetry.joules, telemetry.num_gpus
    examples = windows.examples
    unknown = dict.fromkeys((*start.metrics, "loss"))

    def found(evaluation: Evaluation | None, figures: Mapping[str, float]) -> dict[str, Any]:
        # A metric of the user's keeps its name from a measure.
        known = unknown if evaluation is None else {**evaluation.metrics, "loss": evaluation.loss}
        return {**figures, **known}

    is_tested = start.dataset.test_rows > 0
    choices = {name: choice.value for name, choice in start.choices.items()}
    choices["steps_per_dispatch"] = max(int(choices["steps_per_dispatch"]), windows.most_steps)
    non_finite = [i.non_finite_fraction for i in progress.inspections]
    return Summary(
        **dataclasses.asdict(windows),
        test=found(test, figures if is_tested else {}),
        validation=found(validation, {} if is_tested else figures),
        compile_seconds=sum(c.seconds for c in progress.compilations),
        wall_seconds=wall_seconds,
        peak_rss_bytes=peak_rss_bytes(),
        epochs=(progress.step - start.start_step) / start.steps_per_epoch,
        steps=progress.step,
        choices=choices,
        compilations=sum(c.program == "training step" for c in progress.compilations),
        non_finite_gradient_fraction=max(non_finite, default=None),
        interrupted=progress.interrupted,
        total_examples=progress.counters.examples,
        total_train_seconds=progress.counters.train_seconds,
        resumes=len(start.resumed),
        diverged=progress.divergence is not None,
        joules_per_1000_examples=1000 * joules / examples if examples and joules else None,
        gpu_hours=num_gpus * wall_seconds / 3600 if num_gpus else None,
        gpus=telemetry.gpus,
        workers=start.workers,
        **scaling,
    )


def resolved_config(run: RunStart) -> dict[str, Any]:
    """Returns the settings with every `auto` resolved, which repeat the run, and under `resolved`
    the values and reasons, with the data set, the devices, the versions and the host."""
    choices = run.choices

    def settled(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {inner: settled(inner, each) for inner, each in value.items()}
        return choices[name].value if name in choices else value

    return {
        **settled("", run.config),
        RESOLVED: {
            **run.config.get(RESOLVED, {}),  # the recipe's reason
            "task": dataclasses.asdict(run.task),
            **{name: dataclasses.asdict(choice) for name, choice in choices.items()},
            "devices": list(run.devices),
            "strategy": run.strategy,
            "replicas": choices["replicas"].value,
            "replicas_why": choices["replicas"].why,
            "workers": run.workers,
            "num_parameters": run.num_parameters,
            "steps_per_epoch": run.steps_per_epoch,
            "start_step": run.start_step,
            "resumed": list(run.resumed),
            "dataset": dataclasses.asdict(run.dataset),
            "versions": dict(run.versions),
            "host": dict(run.host),
        },
    }


def read_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / CONFIG_FILE_NAME
    content = read_json(path, remedy=f"Is {run_dir} the folder of a run?")
    resolved, kinds = content.get(RESOLVED), {"dataset": dict, "versions": dict, "resumed": list}
    if not (isinstance(resolved, dict) and isinstance(content.get("execution"), dict)) or not all(
        isinstance(resolved.get(name, kind()), kind) for name, kind in kinds.items()
    ):
        raise InputError(
            f"{path} is damaged, or was not written by a run: it lacks 'execution', or the data "
            f"set in '{RESOLVED}'. Restore it, or name another folder."
        )
    return content
