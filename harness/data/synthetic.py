"""A deterministic stand-in for IMDB, with its sizes, its word frequencies, and a planted signal.

Ids follow Keras's convention: 0 pad (never used), 1 starts every row, 2 is the unknown word, and
the word of rank r has id r + 3. Frequencies follow the Zipf-Mandelbrot law, p(r) ~ (r + b)^-a.

The signal: part of the words lean to one class. Every row has a tilt, drawn around its label's
side. The tilt sets how likely each of the row's words comes from one side's table or the other's.
Tilts overlap, so some rows read like the other class, and no model can classify all rows.
"""

import numpy as np
import numpy.typing as npt

from harness.base.memory import free_bytes, require_memory
from harness.data.options import INDEX_FROM, START_ID, UNKNOWN_ID, SyntheticOptions
from harness.data.ragged import RaggedSets, splits_of

# Keras's IMDB with 10,000 words: lengths including the start token, share of unknown words.
_LENGTH_MEAN = 234.7
_LENGTH_DEVIATION = 172.9
_LENGTH_MIN, _LENGTH_MAX = 11, 2494
_UNKNOWN_SHARE = 0.05

_ZIPF_EXPONENT = 1.2
_ZIPF_SHIFT = 2.5

# Chosen by training the tutorial's network: its second epoch ends at a held-out accuracy of
# 0.887 to 0.890 over four seeds of the network, 0.880 to 0.899 over five corpora.
_LEANING_SHARE = 0.2
_LEANING_FIRST_RANK = 30
_LEANING_STRENGTH = 1.0
_TILT_MEAN = 0.6
_TILT_DEVIATION = 0.36

# One 32-bit draw a token: the upper bits pick the word, the lower bits the side.
_WORD_BITS = 20
_SIDE_BITS = 12


def synthetic_corpus(options: SyntheticOptions | None = None) -> RaggedSets:
    """Returns the corpus: labels 0 and 1, about 235 ids a row, of which about 130 are distinct."""
    options = options or SyntheticOptions()
    num_bytes = int(options.synthetic_rows * _LENGTH_MEAN * 8)  # a random number and the id
    remedy = "Set --synthetic-rows to less"
    needs, place = {"the synthetic rows": num_bytes}, "the host's memory"
    require_memory(needs, free=free_bytes, place=place, remedy=remedy)
    rng = np.random.RandomState(options.synthetic_seed)  # whose streams never change (NEP 19)
    labels = rng.permutation(options.synthetic_rows) % 2
    lengths = _draw_lengths(rng, options.synthetic_rows)
    row_splits = splits_of(lengths)
    values = _draw_words(rng, options.synthetic_tokens, labels, lengths)
    values[row_splits[:-1]] = START_ID
    return RaggedSets(
        values=values,
        row_splits=row_splits,
        labels=labels.astype(np.int32),
        num_tokens=options.synthetic_tokens,
        name="synthetic",
    )


def _draw_lengths(rng: np.random.RandomState, num_rows: int) -> npt.NDArray[np.int64]:
    # The log-normal law with the wanted mean m and deviation s has
    # sigma^2 = ln(1 + s^2 / m^2) and mu = ln(m) - sigma^2 / 2.
    variance = np.log1p((_LENGTH_DEVIATION / _LENGTH_MEAN) ** 2)
    mean = np.log(_LENGTH_MEAN) - variance / 2
    lengths = np.rint(rng.lognormal(mean, np.sqrt(variance), num_rows))
    return np.clip(lengths, _LENGTH_MIN, _LENGTH_MAX).astype(np.int64)


def _draw_words(
    rng: np.random.RandomState,
    num_tokens: int,
    labels: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.int32]:
    tilts = (2 * labels - 1) * _TILT_MEAN + rng.normal(0.0, _TILT_DEVIATION, labels.shape[0])
    sides = np.rint((1 + np.clip(tilts, -1, 1)) / 2 * (1 << _SIDE_BITS)).astype(np.uint32)
    tables = _word_tables(rng, num_tokens)
    draws = rng.randint(0, 1 << 32, size=lengths.sum(), dtype=np.uint32)
    second_side = (draws & np.uint32((1 << _SIDE_BITS) - 1)) < np.repeat(sides, lengths)
    draws >>= np.uint32(_SIDE_BITS)
    # The second table lies behind the first.
    draws += second_side.astype(np.uint32) << np.uint32(_WORD_BITS)
    return tables[draws]


def _word_tables(rng: np.random.RandomState, num_tokens: int) -> npt.NDArray[np.int32]:
    """Returns a table of 2^20 ids for each side, int32 [2^21], with likely ids repeated."""
    ids = np.concatenate([[UNKNOWN_ID], np.arange(INDEX_FROM + 1, num_tokens)]).astype(np.int32)
    ranks = np.arange(1, ids.shape[0])
    frequencies = (ranks + _ZIPF_SHIFT) ** -_ZIPF_EXPONENT
    leans = rng.random_sample(ranks.shape[0]) < _LEANING_SHARE
    leans[:_LEANING_FIRST_RANK] = False
    signs = np.where(rng.random_sample(ranks.shape[0]) < 0.5, -1.0, 1.0)
    tables = []
    for side in (-1.0, 1.0):
        weights = frequencies * np.exp(side * signs * leans * _LEANING_STRENGTH)
        weights *= (1 - _UNKNOWN_SHARE) / weights.sum()
        cumulative = np.cumsum(np.concatenate([[_UNKNOWN_SHARE], weights]))
        points = (np.arange(1 << _WORD_BITS) + 0.5) / (1 << _WORD_BITS)
        index = np.searchsorted(cumulative, points, "right")
        tables.append(ids[np.minimum(index, ids.shape[0] - 1)])
    return np.concatenate(tables)
