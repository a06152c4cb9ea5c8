"""All checks of scikit-learn on both estimators, and what a search costs beside its trainings:

python -m benchmarks.sklearn_checks
"""

import time

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
        results = check_estimator(
            estimator, on_fail=None, on_skip=None, expected_failed_checks=EXPECTED
        )
        passed = sum(result["status"] == "passed" for result in results)
        print(f"{estimator}: {passed} of {len(results)} pass, {time.process_time() - start:.0f} s")
        for result in results:
            if result["status"] != "passed":
                reason = str(result["exception"])[:300]
                print(f"  {result['status']}: {result['check_name']}: {reason}", flush=True)
    search()


def search() -> None:
    """Prints the CPU seconds of a first fit, of a later one, and of a search over 20."""
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((6000, 2000), density=0.02, format="csr", rng=rng)
    y = (X[:, :100].sum(axis=1) > X[:, 100:200].sum(axis=1)).astype(int)
    split = PredefinedSplit(np.where(np.arange(len(y)) < 1000, 0, -1))
    spent = []
    for _ in range(2):
        start = time.process_time()
        MultiHotClassifier().fit(X[1000:], y[1000:])
        spent.append(time.process_time() - start)
    grid = {"learning_rate": np.geomspace(1e-4, 1e-1, 20)}
    start = time.process_time()
    # Other rows than those of the fits above: a search has compiled nothing before.
    GridSearchCV(MultiHotClassifier(batch_size=40), grid, cv=split, refit=False).fit(X, y)
    whole = time.process_time() - start
    limit = 3 * spent[0] + 20 * spent[1]
    print(
        f"first fit {spent[0]:.2f} s, later fit {spent[1]:.2f} s, search over 20 {whole:.2f} s; "
        f"the bar is {limit:.2f} s"
    )


if __name__ == "__main__":
    main()
