"""Compares the two trainings of a case, and gives a verdict."""

import itertools
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

import harness
from benchmarks.differential.case import Case
from benchmarks.differential.training import Trained, by_workers, here, in_keras

LOSS_RTOL, LOSS_ATOL = 2e-5, 2e-6
WEIGHTS_ATOL = 1e-4
"""The absolute tolerance of the weights, and of outputs divided by the largest one."""
METRIC_ATOL = 1e-5
"""The absolute tolerance of a metric that does not jump when a row crosses a threshold."""
NOISE_FACTOR = 30
"""The tolerance where rounding is amplified, as a multiple of Keras's distance from itself when its
initial weights change by one part in 10**7, or when it runs step by step instead of as a graph, or
the other way round."""
_COUNTED = ("accuracy", "again", "near", "top2", "auc", "pr", "precision", "recall", "f1", "iou")


@dataclass(kw_only=True)
class Verdict:
    """The result of a case."""

    seed: int
    result: Literal["equal", "refused", "different", "error"]
    reason: str = ""
    """The reason for a refusal or an error; for a difference, the figures that differ."""
    details: list[str] = field(default_factory=list)
    noisy: bool = False
    """Whether the case is equal only within the distance that rounding alone explains."""
    seconds: float = 0.0  # Seconds of the processor's time


@dataclass(frozen=True, kw_only=True)
class Distance:
    """The distance between the sides in a figure."""

    figure: str
    size: float  # The size of the distance, infinite if names or counts differ
    limit: float
    words: str


def judge(case: Case, *, twice: bool = False) -> Verdict:
    """Trains a case on both sides and compares; `twice`, the trainer trains it again, which must
    give the same bits."""
    start = time.process_time()
    verdict = _judged(case, twice=twice)
    verdict.seconds = round(time.process_time() - start, 2)
    keras.utils.clear_session(free_memory=False)
    return verdict


def _judged(case: Case, *, twice: bool) -> Verdict:
    where = "the trainer"
    try:
        try:
            # Workers of a host need GPUs of their own each; and a GPU adds up in any order.
            on_cpu = not tf.config.get_visible_devices("GPU")
            apart, twice = case.several and on_cpu, twice and on_cpu
            ours = by_workers(case) if apart else here(case)
        except harness.InputError as error:
            return Verdict(seed=case.seed, result="refused", reason=str(error))
        if case.task.refusal:
            return Verdict(seed=case.seed, result="different", reason="not refused")
        again = here(case) if twice and not case.several else None
        where = "Keras"
        theirs = in_keras(case)
        found = [one for one in distances(ours, theirs) if one.size > one.limit]
        is_lost = not np.isfinite(theirs.history["loss"]).all()
        if found and is_lost:  # a NaN's gradient in a relu is NaN to TensorFlow, and 0 to XLA
            compiled = in_keras(case, by_xla=True)
            found = [one for one in distances(ours, compiled) if one.size > one.limit]
        # NaN, or a number within rounding of a threshold, may fall on either side of it.
        margin = np.abs(theirs.predictions - (0.0 if case.task.head is None else 0.5))
        if is_lost or np.mean(margin < 1e-6) > 0.1:
            found = [one for one in found if not _is_counted(one.figure)]
        noisy = bool(found)
        if found and all(np.isfinite(one.size) for one in found):
            found = _beyond_noise(case, found, theirs)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the case's result
        return Verdict(
            seed=case.seed,
            result="error",
            reason=f"{where}: {type(error).__name__}: {str(error)[:300]}",
            details=traceback.format_exc().splitlines()[-30:],
        )
    if again is not None and not _same_bits(ours, again):
        words = "a second training differs"
        found.append(Distance(figure="bits", size=np.inf, limit=0, words=words))
    if not found:
        return Verdict(seed=case.seed, result="equal", noisy=noisy)
    return Verdict(
        seed=case.seed,
        result="different",
        reason=", ".join(dict.fromkeys(one.figure.split(" ")[0] for one in found)),
        details=[f"{one.figure}: {one.words}" for one in found],
    )


def distances(ours: Trained, theirs: Trained) -> list[Distance]:
    """Returns the distances between two trainings in all figures with numbers, and the names that
    differ."""
    found = []

    def names(figure: str, own: Any, expected: Any) -> bool:
        if own != expected:
            words = f"{own} here, {expected} in Keras"
            if isinstance(own, list):
                words = f"{_beside(own, expected)} here, {_beside(expected, own)} in Keras"
            found.append(Distance(figure=figure, size=np.inf, limit=0, words=words[:400]))
        return bool(own == expected)

    def numbers(figure: str, own: Any, expected: Any, limit: float) -> None:
        own, expected = np.atleast_1d(own).astype(float), np.atleast_1d(expected).astype(float)
        if not names(f"{figure} shape", own.shape, expected.shape):
            return
        apart = np.abs(own - expected)
        apart[np.isnan(own) & np.isnan(expected)] = 0
        size = float(np.max(np.nan_to_num(apart, nan=np.inf), initial=0))
        words = f"by {size:.3g}: {own.reshape(-1)[:4]} here, {expected.reshape(-1)[:4]} in Keras"
        found.append(Distance(figure=figure, size=size, limit=limit, words=words))

    def named(figure: str, own: dict[str, Any], expected: dict[str, Any]) -> None:
        if names(f"{figure} keys", sorted(own), sorted(expected)):
            for name, values in expected.items():
                numbers(f"{figure} {name}", own[name], values, _limit(name, values))

    names("epochs", ours.epochs, theirs.epochs)
    named("history", ours.history, theirs.history)
    named("evaluation", ours.evaluation, theirs.evaluation)
    if names("hooks", ours.hooks, theirs.hooks):
        for place, ((hook, mine), (_, logs)) in enumerate(zip(ours.logs, theirs.logs, strict=True)):
            named(f"logs {hook} {place}", mine, logs)
        seen = (np.reshape(side.seen, [-1, 3]).T for side in (ours, theirs))
        for what, own, expected in zip(("steps", "rate", "weights"), *seen, strict=True):
            limit = LOSS_RTOL * float(np.abs(expected).max(initial=1))
            numbers(f"seen {what}", own, expected, limit)
    names("files", ours.files, theirs.files)
    for place, (own, expected) in enumerate(zip(ours.turns, theirs.turns, strict=True)):
        named(f"turn {place}", own, expected)
    numbers("quantized", ours.quantized, theirs.quantized, METRIC_ATOL)
    if names("weights' number", len(ours.weights), len(theirs.weights)):
        for name, own, expected in zip(theirs.names, ours.weights, theirs.weights, strict=True):
            numbers(f"weights {name}", own, expected, WEIGHTS_ATOL)
    scale = max(1.0, float(np.abs(theirs.predictions).max()))
    numbers("predictions", ours.predictions, theirs.predictions, WEIGHTS_ATOL * scale)
    return found


def _beside(own: list[Any], other: list[Any]) -> str:
    """Describes the rest of a list from the first place where it differs from another."""
    pairs = zip(own, other, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return f"{own[same : same + 4]} at {same} of {len(own)}"


def _limit(name: str, values: Any) -> float:
    """Returns the tolerance of a figure of this name."""
    largest = float(np.max(np.abs(np.nan_to_num(values)), initial=0))
    if name == "predicted":
        return WEIGHTS_ATOL * max(1.0, largest)
    if name.endswith("loss"):
        return LOSS_ATOL + LOSS_RTOL * largest
    return METRIC_ATOL * max(1.0, largest)


def _beyond_noise(case: Case, found: list[Distance], theirs: Trained) -> list[Distance]:
    """Returns the distances that rounding does not explain. For this, Keras trains again, in its
    other mode and from weights with the last digit changed; a row may cross a metric's
    threshold."""
    others = [in_keras(replace(case, eager=not case.eager))]
    for seed in range(2):
        rng = np.random.default_rng([case.seed, 2, seed])

        def nudge(model: keras.Model, rng: np.random.Generator = rng) -> None:
            signs = (1e-7 * rng.choice([-1.0, 1.0], w.shape) for w in model.get_weights())
            pairs = zip(model.get_weights(), signs, strict=True)
            model.set_weights([(w * (1 + sign)).astype(w.dtype) for w, sign in pairs])

        others.append(in_keras(case, nudge))
    noise: dict[str, float] = {}
    for one in itertools.chain.from_iterable(distances(other, theirs) for other in others):
        noise[one.figure] = max(noise.get(one.figure, 0), one.size)
    flip = 1.01 / case.batch_size
    return [
        one
        for one in found
        if one.size > NOISE_FACTOR * noise.get(one.figure, 0)
        and not (_is_counted(one.figure) and one.size <= flip)
    ]


def _is_counted(figure: str) -> bool:
    """Whether a figure is a metric that jumps when a row crosses a threshold."""
    return figure.removesuffix("s").split(" ")[-1].removeprefix("val_") in _COUNTED


def _same_bits(first: Trained, second: Trained) -> bool:
    """Whether two trainings by the trainer are the same to the last bit."""
    pairs = zip(first.weights, second.weights, strict=True)
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    return same and np.array_equal(first.predictions, second.predictions, equal_nan=True)
