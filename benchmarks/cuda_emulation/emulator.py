"""Builds the emulated kernels, and calls them with NumPy arrays.

Shapes: B rows, V num_tokens, H units, N values.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.multi_hot.native.build import require_compiler

SOURCES = Path(__file__).resolve().parent
_FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
_ID_TYPES = {"int32": 0, "uint16": 1, "int64": 2}  # IdType in arguments.h


class _DeviceSets(ctypes.Structure):
    """DeviceSets in arguments.h."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("splits", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("id_type", ctypes.c_int),
        ("wide_splits", ctypes.c_int),
        ("num_values", ctypes.c_int),
        ("num_rows", ctypes.c_int),
        ("num_tokens", ctypes.c_int),
        ("step", ctypes.c_void_p),
        ("num_steps", ctypes.c_int),
    )


class _Touched(ctypes.Structure):
    """Touched in row_passes.h."""

    _fields_ = (
        ("ids", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("num", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("num_values", ctypes.c_int),
        ("num_slots", ctypes.c_int),
    )


def compile_program(sources: Sequence[str], output: Path, *options: str) -> None:
    """Compiles sources of this folder, with the emulation, into a program or a library.

    Raises:
      NativeUnavailableError: there is no compiler.
      subprocess.CalledProcessError: it refuses them.
    """
    files = [str(SOURCES / name) for name in (*sources, "fibers.cc")]
    command = [*require_compiler(), *_FLAGS, *options, *files, "-o", str(output)]
    subprocess.run(command, check=True)


class Emulator:
    """The kernels as functions of NumPy arrays. A seed is an order of blocks, warps and lanes."""

    def __init__(self, folder: Path) -> None:
        """Builds the library in `folder`."""
        path = folder / "emulator.so"
        compile_program(["emulator.cc"], path, "-O1", "-fPIC", "-shared")
        self._library = ctypes.CDLL(str(path))
        self._library.emulator_workspace.restype = ctypes.c_longlong
        self._library.emulator_row_workspace.restype = ctypes.c_longlong

    def workspace_words(self, num_values: int, num_tokens: int, units: int) -> int:
        """Return the size of the backward pass's workspace, in units of 4 bytes."""
        shape = map(ctypes.c_longlong, (num_values, num_tokens, units))
        return int(self._library.emulator_workspace(*shape))

    def row_workspace_words(self, num_values: int, units: int) -> int:
        """Return the size of the workspace of the touched rows' gradients, in the same units."""
        shape = map(ctypes.c_longlong, (num_values, units))
        return int(self._library.emulator_row_workspace(*shape))

    def forward(
        self,
        kernel_type: str,
        table: NDArray[Any],
        values: NDArray[Any],
        row_splits: NDArray[Any],
        *,
        unique: bool,
        weights: NDArray[np.float32] | None,
        seed: int,
    ) -> NDArray[Any]:
        """Return y [B, H] in the table's dtype.

        Args:
          kernel_type: f32, bf16 or f16.
          table: [V, H], of float32, or of 16 bits of whatever dtype.
          values: [N] int32, uint16 or int64.
          row_splits: [B + 1] int32 or int64.
          unique: the promise that no row holds an id twice.
          weights: [N].
          seed: of the order.
        """
        sets, kept = _sets(values, row_splits, weights, len(table))
        y = np.empty((len(row_splits) - 1, table.shape[1]), table.dtype)
        kept.append(table := np.ascontiguousarray(table))
        failed = self._library.emulator_forward(
            kernel_type.encode(), ctypes.byref(sets), int(unique), _address(table),
            table.shape[1], _address(y), ctypes.c_uint64(seed),
        )  # fmt: skip
        assert not failed
        return y

    def backward(
        self,
        kernel_type: str,
        dy: NDArray[Any],
        values: NDArray[Any],
        row_splits: NDArray[Any],
        *,
        num_tokens: int,
        weights: NDArray[np.float32] | None,
        seed: int,
    ) -> NDArray[Any]:
        """Return dW [V, H] in the dtype of `dy` [B, H]; arguments as above."""
        sets, kept = _sets(values, row_splits, weights, num_tokens)
        units = dy.shape[1]
        workspace = _garbage(seed, self.workspace_words(len(values), num_tokens, units))
        dw = np.empty((num_tokens, units), dy.dtype)
        kept.append(dy := np.ascontiguousarray(dy))
        failed = self._library.emulator_backward(
            kernel_type.encode(), ctypes.byref(sets), _address(dy), units, _address(dw),
            _address(workspace), ctypes.c_uint64(seed),
        )  # fmt: skip
        assert not failed
        return dw

    def row_gradients(
        self,
        dy: NDArray[np.float32],
        values: NDArray[Any],
        row_splits: NDArray[Any],
        *,
        num_tokens: int,
        weights: NDArray[np.float32] | None,
        seed: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], np.float32]:
        """Return the touched ids [n] of a batch, their rows of the gradient [n, H] with 0 in
        unused slots, and the sum of their squares; arguments as above."""
        sets, kept = _sets(values, row_splits, weights, num_tokens)
        N, units = len(values), dy.shape[1]
        n = min(N, num_tokens)
        ids, slots, rows, num = (_garbage(seed, words) for words in (n, N + 1, N, 1))
        own = np.full(0 if weights is None else N, np.nan, np.float32)
        touched = _Touched(
            *(_address(part) for part in (ids, slots, rows, num)),
            None if weights is None else _address(own), N, n,
        )  # fmt: skip
        gradients, squares = np.full([n, units], np.nan, np.float32), np.empty(1, np.float32)
        spaces = [
            _garbage(seed, self.workspace_words(N, num_tokens, 0)),
            _garbage(seed, self.row_workspace_words(N, units)),
        ]
        kept += [dy := np.ascontiguousarray(dy), own]
        failed = self._library.emulator_touch(
            ctypes.byref(sets), ctypes.byref(touched), _address(spaces[0]), ctypes.c_uint64(seed)
        ) or self._library.emulator_row_gradients(
            ctypes.byref(touched), _address(dy), units, _address(gradients), _address(squares),
            _address(spaces[1]), ctypes.c_uint64(seed),
        )  # fmt: skip
        assert not failed
        assert num[0] == (ids >= 0).sum()
        gradients[num[0] :] = 0
        return ids, gradients, squares[0]


def _garbage(seed: int, words: int) -> NDArray[np.int32]:
    """Return memory that the kernels must not read before they write it."""
    return np.random.default_rng(seed).integers(-(2**31), 2**31, words).astype(np.int32)


def _sets(
    values: NDArray[Any], row_splits: NDArray[Any], weights: NDArray[Any] | None, num_tokens: int
) -> tuple[_DeviceSets, list[NDArray[Any]]]:
    """Return the sets, and the arrays that must live as long."""
    kept = [np.ascontiguousarray(values), np.ascontiguousarray(row_splits)]
    if weights is not None:
        kept.append(np.ascontiguousarray(weights, np.float32))
    sets = _DeviceSets(
        values=_address(kept[0]),
        splits=_address(kept[1]),
        weights=None if weights is None else _address(kept[2]),
        id_type=_ID_TYPES[values.dtype.name],
        wide_splits=int(row_splits.dtype == np.int64),
        num_values=len(values),
        num_rows=len(row_splits) - 1,
        num_tokens=num_tokens,
    )
    return sets, kept


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
