"""Hostile pickles in Keras's format: whatever they ask for, nothing is called."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data.imdb import load_imdb
from harness.data.options import ImdbOptions

WriteNpz = Callable[..., Path]


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def npy_with_pickle(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (4,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + pickled


def replace_member(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name == member else old)


@pytest.mark.parametrize("member", ["x_train", "y_test"])
def test_a_pickle_that_calls_a_function_calls_nothing(
    write_npz: WriteNpz, tmp_path: Path, member: str
) -> None:
    created = tmp_path / "created"
    call, path = Call(os.mkdir, str(created)), write_npz()
    for content in (call, [[1], [call], [2], [3]]):
        replace_member(path, f"{member}.npy", npy_with_pickle(pickle.dumps(content)))
        with pytest.raises(InputError, match=r"damaged, or not an .npz file"):
            load_imdb(path, ImdbOptions())
        assert not created.exists()
    # The pickle is not a dud: an ordinary unpickler does call the function.
    pickle.loads(pickle.dumps(call))
    assert created.exists()


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"cnumpy\nload\n.", "it asks for numpy.load"),
        (b"cnumpy.core.multiarray\nscalar\n.", "it asks for numpy.core.multiarray.scalar"),
        (b"cbuiltins\ngetattr\n.", "it asks for builtins.getattr"),
        (b"cnumpy\ndtype.type\n.", "it asks for numpy.dtype.type"),
        # A void type whose forged state would have its bytes taken for object pointers.
        (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.", "not an array with a list"),
        (
            b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\nt}I8\nI1\nI0\ntb.",
            "not an array with a list",
        ),
        # Another class in place of the array's.
        (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
            "not an array with a list",
        ),
        (b"Pname\n.", "persistent"),
        (b"\x82\x01.", "extension code"),
        (b"cnumpy\nndarray\n(tR.", "not an array with a list"),
        (b".", "damaged, or not an .npz"),
        (b"N.", "not an array with a list"),
        (b"]\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged, or not an .npz"),
    ],
)
def test_a_pickle_that_asks_for_more_than_arrays(
    write_npz: WriteNpz, pickled: bytes, message: str
) -> None:
    path = write_npz()
    replace_member(path, "x_train.npy", npy_with_pickle(pickled))
    with pytest.raises(InputError, match=message):
        load_imdb(path, ImdbOptions())
