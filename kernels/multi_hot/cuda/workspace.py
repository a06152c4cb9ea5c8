"""The sizes of workspaces of the kernels, which a program needs where no GPU is."""

_ALIGN = 32
_SORT_THREADS = 512
_MAX_SEGMENTS = 256
_MAX_DIGIT_BITS = 8
_TILES = 8192
_SQUARE_BLOCKS = 256


def workspace_words(num_values: int, num_tokens: int, units: int) -> int:
    """Return `Workspace(num_values, num_tokens, units).size` of passes.h, in units of 4 bytes."""
    num_passes = _parts(max(1, num_tokens.bit_length()), _MAX_DIGIT_BITS)
    digit_bits = _parts(max(1, num_tokens.bit_length()), num_passes)
    entries = max(1, num_values)
    segment = _parts(_parts(entries, _MAX_SEGMENTS), _SORT_THREADS) * _SORT_THREADS
    sums = _num_tiles(num_values) * units
    arrays = [*[num_values] * 5, _parts(entries, segment) << digit_bits, sums, sums]
    return _ALIGN + sum(_parts(array, _ALIGN) * _ALIGN for array in arrays)


def row_workspace_words(num_values: int, units: int) -> int:
    """Return `RowWorkspace(num_values, units).size` of row_passes.h, in units of 4 bytes."""
    sums = _parts(_num_tiles(num_values) * units, _ALIGN) * _ALIGN
    return 2 * sums + _SQUARE_BLOCKS


def _num_tiles(num_values: int) -> int:
    entries = max(1, num_values)
    return _parts(entries, min(max(entries // _TILES // 32 * 32, 32), 256))


def _parts(size: int, of: int) -> int:
    return -(-size // of)
