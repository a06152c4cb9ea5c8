import numpy as np
import pytest

from kernels.multi_hot.cases import CASES, IMDB_500, SMALL, Case


@pytest.mark.parametrize("case", [*SMALL, IMDB_500], ids=lambda case: case.name)
def test_draw_is_what_the_case_says(case: Case) -> None:
    sets = case.draw(5)
    nnz = sets.row_splits[-1]
    assert sets.row_splits.shape == (case.num_rows + 1,)
    assert sets.values.shape == (nnz + case.spare,)
    assert sets.table.shape == (case.num_tokens, case.units)
    assert sets.dy.shape == (case.num_rows, case.units)
    assert sets.values[:nnz].min() >= 0
    assert sets.values[:nnz].max() < case.num_tokens
    rows = np.split(sets.values[:nnz], sets.row_splits[1:-1])
    repeats = any(len(np.unique(row)) < len(row) for row in rows)
    assert not (repeats and case.unique)
    np.testing.assert_equal(case.draw(5), sets)


def test_imdb_has_the_measured_size() -> None:
    """65,100 unique ids in 500 reviews, 130 each."""
    nnz = [IMDB_500.draw(seed).row_splits[-1] for seed in range(5)]
    assert abs(np.mean(nnz) / 65_100 - 1) < 0.03


def test_names_are_keys() -> None:
    assert all(case.name == name for name, case in CASES.items())
