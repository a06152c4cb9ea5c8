"""All checks of scikit-learn on both estimators.

python -m benchmarks.sklearn_checks
"""

import time

from sklearn.utils.estimator_checks import check_estimator

from harness.sklearn import MultiHotClassifier, MultiHotRegressor

_AT_RANDOM = "batches are drawn at random, so a row of weight 2 trains not quite as two such rows"
_WEIGHTS = "check_sample_weight_equivalence_on_{}_data"
EXPECTED = {_WEIGHTS.format(kind): _AT_RANDOM for kind in ("dense", "sparse")}
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


if __name__ == "__main__":
    main()
