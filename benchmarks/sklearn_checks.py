"""All checks of scikit-learn on both estimators, and what a search costs beside its trainings:

python -m benchmarks.sklearn_checks
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.utils.estimator_checks import check_estimator

from harness.sklearn import MultiHotClassifier, MultiHotRegressor

_AT_RANDOM = "batches are drawn at random, so a row of weight 2 trains not quite as two such rows"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": _AT_RANDOM,
    "check_sample_weight_equivalence_on_sparse_data": _AT_RANDOM,
}
"""The checks that fail, with the reason."""


def main() -> None:
    """Prints the checks that do not pass, and CPU seconds."""
    for estimator in (MultiHotClassifier(), MultiHotRegressor()):
        start = time.process_time()
        how = {"on_fail": None, "on_skip": None, "expected_failed_checks": EXPECTED}
        results = check_estimator(estimator, **how)
        passed = sum(result["status"] == "passed" for result in results)
        print(f"{estimator}: {passed} of {len(results)} pass, {time.process_time() - start:.0f} s")
        for result in results:
            if result["status"] != "passed":
                reason = str(result["exception"])[:300]
                print(f"  {result['status']}: {result['check_name']}: {reason}", flush=True)
    search()


def search() -> None:
    """Prints the seconds of a search over 20 candidates that differ in their learning rate, and the
    bar: three times those of a first fit, which compiles, plus 20 times those of a later fit of the
    same shape, which compiles nothing."""
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((6000, 2000), density=0.02, format="csr", rng=rng)
    y = (X[:, :100].sum(axis=1) > X[:, 100:200].sum(axis=1)).astype(int)
    split = PredefinedSplit(np.where(np.arange(len(y)) < 1000, 0, -1))
    first = _seconds(lambda: MultiHotClassifier().fit(X[1000:], y[1000:]))
    later = _seconds(lambda: MultiHotClassifier().fit(X[1000:], y[1000:]))
    # Another batch size than above: nothing of the search was compiled before.
    classifier = MultiHotClassifier(batch_size=40)
    grid = {"learning_rate": np.geomspace(1e-4, 1e-1, 20)}
    whole = _seconds(lambda: GridSearchCV(classifier, grid, cv=split, refit=False).fit(X, y))
    for place, clock in enumerate(("CPU", "wall")):
        bar = 3 * first[place] + 20 * later[place]
        print(
            f"{clock} seconds: first fit {first[place]:.2f}, later fit {later[place]:.2f}, search "
            f"over 20 candidates {whole[place]:.2f}; the bar is {bar:.2f}"
        )


def _seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Returns the CPU and wall seconds of a call."""
    start = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - start[0], time.perf_counter() - start[1]


if __name__ == "__main__":
    main()
