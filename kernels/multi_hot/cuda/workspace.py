"""The sizes of the kernels' workspaces, which programs need even on machines without a GPU.

Sizes are in units of 4 bytes. Letters: N values of each of L batches, V num_tokens, H units.
"""

_ALIGN = 32
_SORT_THREADS = 512
MAX_SEGMENTS = 256
_MAX_DIGIT_BITS = 8
_TILES = 8192
_SQUARE_BLOCKS = 256


def sort_words(num_batches: int, num_values: int, num_tokens: int) -> int:
    """Return `SortWorkspace(L, N, V).size` of passes.h."""
    num_passes = _parts(max(1, num_tokens.bit_length()), _MAX_DIGIT_BITS)
    digit_bits = _parts(max(1, num_tokens.bit_length()), num_passes)
    entries = max(1, num_values)
    segment = _parts(_parts(entries, MAX_SEGMENTS), _SORT_THREADS) * _SORT_THREADS
    counts = num_batches * _parts(entries, segment) << digit_bits
    return 2 * _aligned(num_batches * num_values) + _aligned(counts)


def sum_words(num_values: int, units: int) -> int:
    """Return `SumWorkspace(N, H).size` of passes.h."""
    entries = max(1, num_values)
    tiles = _parts(entries, min(max(entries // _TILES // 32 * 32, 32), 256))
    return 2 * _aligned(tiles * units)


def row_words(num_values: int, units: int) -> int:
    """Return `RowWorkspace(N, H).size` of passes.h."""
    return sum_words(num_values, units) + _SQUARE_BLOCKS


def _aligned(words: int) -> int:
    return _parts(words, _ALIGN) * _ALIGN


def _parts(size: int, of: int) -> int:
    return -(-size // of)
