"""The CUDA kernels, emulated on the CPU: the contract of every implementation, in any order of
their blocks, warps and lanes, and under the compiler's sanitizers."""

import platform
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.cuda_emulation.emulator import Emulator, compile_program
from kernels.multi_hot.cases import SMALL
from kernels.multi_hot.cuda.workspace import row_workspace_words, workspace_words
from kernels.multi_hot.native.build import find_compiler
from tests.kernels.multi_hot import reference
from tests.kernels.multi_hot.checks import DTYPES, assert_close
from tests.kernels.multi_hot.contract import ProductContract
from tests.kernels.multi_hot.rows_contract import RowsContract

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
KERNEL_TYPES = {tf.float32: "f32", tf.bfloat16: "bf16", tf.float16: "f16"}
# Address-space randomisation of recent kernels leaves the thread sanitizer no room for its map.
_FIXED_ADDRESSES = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("emulator"))


class TestEmulated(RowsContract, ProductContract):
    """What the contract says of XLA's programs is theirs who call the kernels; the rest holds here.
    Nothing is compiled, so each case runs in two orders instead."""

    implementation = "native"
    emulator: Emulator

    @pytest.fixture(autouse=True)
    def _emulator(self, built: Emulator) -> None:
        self.emulator = built

    def product(
        self,
        table: np.ndarray,
        values: Any,
        row_splits: Any,
        dy: np.ndarray,
        *,
        dtype: tf.DType = tf.float32,
        unique: bool = False,
        weights: Any = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return y and dW, which two orders must give to the bit."""
        kernel_type = KERNEL_TYPES[dtype]
        table, dy = (tf.constant(operand, dtype).numpy() for operand in (table, dy))
        values, row_splits = np.asarray(values), np.asarray(row_splits)
        results = []
        for _ in range(2):
            seed = secrets.randbits(32)
            given: dict[str, Any] = {"weights": weights, "seed": seed}
            y = self.emulator.forward(
                kernel_type, table, values, row_splits, unique=unique, **given
            )
            dw = self.emulator.backward(
                kernel_type, dy, values, row_splits, num_tokens=len(table), **given
            )
            results.append((y, dw))
        for one, other in zip(*results, strict=True):
            assert one.tobytes() == other.tobytes()
        return tf.constant(y), tf.constant(dw)

    def check(
        self,
        table: np.ndarray,
        values: np.ndarray,
        row_splits: np.ndarray,
        dy: np.ndarray,
        *,
        unique: bool,
        dtype: tf.DType,
        compiled: bool,
        splits_dtype: tf.DType = tf.int64,
        rowids_dtype: tf.DType | None = None,
        weights: np.ndarray | None = None,
        function: Any = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As the contract's, by the emulated kernels."""
        del compiled, rowids_dtype, function
        values = np.asarray(values).astype(np.int32)
        y, dw = self.product(
            table, values, np.asarray(row_splits).astype(splits_dtype.as_numpy_dtype), dy,
            dtype=dtype, unique=unique, weights=weights,
        )  # fmt: skip
        table, dy = (tf.cast(tf.constant(x, dtype), tf.float64).numpy() for x in (table, dy))
        if weights is not None:
            weights = np.asarray(weights, np.float32)
        size = reference.multi_hot(
            values, row_splits, num_tokens=len(table),
            weights=None if weights is None else np.abs(weights),
        )  # fmt: skip
        wanted = reference.multi_hot_dense(table, values, row_splits, weights)
        assert_close(y, wanted, size @ np.abs(table))
        wanted = reference.table_gradient(
            dy, values, row_splits, num_tokens=len(table), weights=weights
        )
        assert_close(dw, wanted, size.T @ np.abs(dy))
        return y, dw

    def check_rows(self, function: Any, *arguments: Any, **options: Any) -> None:
        """As the contract's, by the emulated kernels in two orders."""
        del function

        def emulated(
            dy: Any, values: Any, row_splits: Any, *, num_tokens: int, weights: Any, **others: Any
        ) -> tuple[tf.Tensor, tf.Tensor]:
            del others
            operands = [part.numpy() for part in (tf.cast(dy, tf.float32), values, row_splits)]
            weights = None if weights is None else weights.numpy()
            results = [
                self.emulator.row_gradients(
                    *operands, num_tokens=num_tokens, weights=weights, seed=secrets.randbits(32)
                )
                for _ in range(2)
            ]
            for one, other in zip(*results, strict=True):
                assert one.tobytes() == other.tobytes()
            ids, rows, squares = results[0]
            np.testing.assert_allclose(squares, np.square(rows, dtype=np.float64).sum(), rtol=1e-5)
            return tf.constant(ids), tf.constant(rows)

        super().check_rows(emulated, *arguments, **options)

    def test_uint16_ids(self) -> None:
        table = np.zeros([40_001, 2])
        table[[1, 40_000], [1, 0]] = 1
        for id_type in (np.uint16, np.int64):
            y, dw = self.product(
                table, np.array([1, 40_000], id_type), np.array([0, 1, 2]), np.ones([2, 2])
            )
            np.testing.assert_array_equal(y, [[0, 1], [1, 0]])
            np.testing.assert_array_equal(np.flatnonzero(dw[:, 0]), [1, 40_000])

    def test_sums_accumulate_in_float32(self) -> None:
        for dtype, count in ((tf.bfloat16, 1_024), (tf.float16, 2_080)):
            ones = np.ones([count, 1])
            ids = np.arange(count, dtype=np.int32)
            y, _ = self.product(ones, ids, [0, count], ones[:1], dtype=dtype, unique=True)
            assert float(y[0, 0]) == count
            _, dw = self.product(
                ones[:3], 0 * ids, np.arange(count + 1), ones, dtype=dtype, unique=True
            )
            assert float(dw[0, 0]) == count

    @pytest.mark.parametrize("compiled", [False])
    def test_weights(self, compiled: bool, rng: np.random.Generator) -> None:
        """Weights of 1 count repeated ids, which `unique` does not change."""
        ids = np.array([3, 1, 3, 3, 0, 1, 7, 7], np.int32)
        counts = np.zeros([3, 11])
        counts[[0, 0, 2, 2], [3, 1, 0, 1]] = 3, 1, 1, 1
        table, dy = rng.normal(size=(11, 5)), rng.normal(size=(3, 5))
        for unique in (True, False):
            y, dw = self.product(
                table, ids, [0, 4, 4, 6], dy, unique=unique, weights=np.ones(8, np.float32)
            )
            np.testing.assert_allclose(y, counts @ table, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(dw, counts.T @ dy, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("weighted", [False])
    def test_property(self, weighted: bool) -> None:
        self.check_any_rows(weighted=weighted)

    def check_descent(self, rng: np.random.Generator, *, with_rowids: bool) -> None:
        """Five steps of gradient descent."""
        del with_rowids
        sets = SMALL[0].draw(int(rng.integers(2**32)))
        matrix = reference.multi_hot(sets.values, sets.row_splits, num_tokens=len(sets.table))
        found, wanted = sets.table, sets.table.astype(np.float64)
        y = np.zeros_like(sets.dy)
        for _ in range(5):
            y, _ = self.product(found, sets.values, sets.row_splits, y, unique=True)
            _, dw = self.product(found, sets.values, sets.row_splits, y, unique=True)
            found = found - np.float32(0.001) * dw.numpy()
            wanted -= 0.001 * matrix.T @ (matrix @ wanted)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)

    def test_two_shares_of_a_batch(self, rng: np.random.Generator) -> None:
        """The bits of a gradient are the same whatever was computed before."""
        shares = [SMALL[1].draw(int(rng.integers(2**32))) for _ in range(2)]
        first, _, again = (
            self.product(shares[0].table, share.values, share.row_splits, share.dy)
            for share in (shares[0], shares[1], shares[0])
        )
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize(
        ("values", "row_splits", "wrong"),
        [
            ([1, 11, 2], [0, 2, 3], [True, False]),
            ([1, 2, -1], [0, 2, 3], [False, True]),
            ([2**31 - 1], [0, 1], [True]),
            ([1, 2], [0, 3], [True]),
            ([1, 2], [0, 2, 1], [False, True]),
            ([1, 2], [1, 2], [True]),
            ([1, 2], [-1, 2], [True]),
            ([], [0, 1], [True]),
            ([1, 2, 3], [0, 2**40], [True]),
        ],
        ids=str,
    )
    def test_wrong_data_raises(
        self, values: list[int], row_splits: list[int], wrong: list[bool]
    ) -> None:
        """It gives NaN: an error would have to be waited for."""
        for dtype in DTYPES:
            y, dw = self.product(
                np.ones([11, 3]), np.array(values, np.int32), row_splits,
                np.ones([len(wrong), 3]), dtype=dtype,
            )  # fmt: skip
            np.testing.assert_array_equal(np.isnan(tf.cast(y, tf.float32)).all(axis=1), wrong)
            np.testing.assert_array_equal(np.isnan(tf.cast(y, tf.float32)).any(axis=1), wrong)
            assert np.isnan(tf.cast(dw, tf.float32)).all()
        ids, rows, _ = self.emulator.row_gradients(
            np.ones([len(wrong), 3], np.float32), np.array(values, np.int32), np.array(row_splits),
            num_tokens=11, weights=None, seed=1,
        )  # fmt: skip
        assert np.isnan(rows[ids >= 0]).all()


def test_the_workspace_is_as_large_as_the_kernels_want(built: Emulator) -> None:
    for N in (0, 1, 31, 32, 33, 512, 65_100, 131_073, 533_000, 9_000_000):
        for V in (1, 255, 256, 10_000, 2**16, 2**24):
            for H in (0, 1, 50, 1_000):
                assert built.workspace_words(N, V, H) == workspace_words(N, V, H), (N, V, H)
                assert built.row_workspace_words(N, H) == row_workspace_words(N, H), (N, H)


@pytest.mark.parametrize(
    ("cases", "sanitizer"),
    [
        (5, ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]),
        (6, ["-fsanitize=thread"]),
    ],
    ids=["address_and_undefined", "thread"],
)
def test_clean_under(cases: int, sanitizer: list[str], tmp_path: Path) -> None:
    """Random batches. The thread sanitizer takes the lanes for threads that only barriers order."""
    program = tmp_path / "fuzz"
    compile_program(["fuzz.cc"], program, "-O0", *sanitizer)
    seed = secrets.randbits(32)
    done = subprocess.run(
        [*_FIXED_ADDRESSES, str(program), str(seed), str(cases)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all passed\n")
