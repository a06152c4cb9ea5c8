"""What is explored, against figures taken row by row."""

from pathlib import Path

import numpy as np
import pytest

from harness.config import ImdbOptions, SyntheticOptions
from harness.data.info import explore
from harness.data.ragged import RaggedSets
from harness.data.sources import Dataset, load
from harness.data.vocabulary import Vocabulary


def test_figures_agree_with_rows_taken_one_by_one() -> None:
    dataset = load(
        "synthetic", synthetic=SyntheticOptions(synthetic_rows=300, synthetic_seed=5), unique=False
    )
    info = explore(dataset, num_bins=7)
    rows = [
        part.row(i).tolist() for part in (dataset.train, dataset.test) for i in range(part.num_rows)
    ]
    lengths = [len(row) for row in rows]
    assert (info.train_rows, info.test_rows, info.nnz) == (240, 60, sum(lengths))
    assert info.categories == ((0, 150), (1, 150))
    assert info.unique_ids == len({token for row in rows for token in row})
    assert info.mean_length == pytest.approx(np.mean(lengths))
    assert info.length_deviation == pytest.approx(np.std(lengths))
    assert (info.min_length, info.max_length) == (min(lengths), max(lengths))
    assert info.mean_unique_length == pytest.approx(np.mean([len(set(row)) for row in rows]))
    assert info.max_unique_length == max(len(set(row)) for row in rows)
    counts, edges = np.histogram(lengths, bins=7)
    assert info.histogram_counts == tuple(counts)
    assert info.histogram_edges == tuple(edges)
    assert not info.is_unique
    assert info.decoded_row is None
    assert "no words" in info.vocabulary_note


@pytest.mark.parametrize(("test_comes_first", "decoded"), [(True, "# b"), (False, "# a a")])
def test_the_first_row_of_the_data_is_decoded(test_comes_first: bool, decoded: str) -> None:
    def sets(values: list[int]) -> RaggedSets:
        return RaggedSets(
            values=values,
            row_splits=[0, len(values)],
            labels=[2],
            num_tokens=9,
            num_classes=4,
            name="one",
        )

    vocabulary = Vocabulary(
        ranks={"a": 1, "b": 2}, num_tokens=9, conventions=ImdbOptions(), source=Path("words.json")
    )
    info = explore(
        Dataset(
            train=sets([1, 4, 4]),
            test=sets([1, 5]),
            name="one",
            vocabulary=vocabulary,
            vocabulary_note="words from words.json",
            test_comes_first=test_comes_first,
        )
    )
    assert info.decoded_row == decoded
    assert info.categories == ((0, 0), (1, 0), (2, 2), (3, 0))


def test_the_real_reviews_show_the_known_figures(imdb_path: Path) -> None:
    info = explore(load(str(imdb_path), unique=False))
    assert info.categories == ((0, 25_000), (1, 25_000))
    assert info.unique_ids == 9_998
    assert info.mean_length == pytest.approx(234.738, abs=5e-4)
    assert info.length_deviation == pytest.approx(172.925, abs=5e-4)
    assert info.mean_unique_length == pytest.approx(130.218, abs=5e-4)
    assert info.max_unique_length == 774
    assert sum(info.histogram_counts) == 50_000
    if info.decoded_row is not None:
        assert info.decoded_row.startswith("# this film was just brilliant casting")
