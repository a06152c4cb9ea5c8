"""Damage to archives and their contents: the directory of a zip file, headers of arrays, pickles
and HDF5 files."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Sequence
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from benchmarks.faults.hostile_bytes import BYTES, Damage, damage_json

_DTYPES = (
    *(
        "|b1",
        "|i1",
        "<u2",
        ">i4",
        "<i4",
        "<i8",
        "<u8",
        "<f2",
        "<f4",
        ">f8",
        "<c16",
        "<m8",
        "<M8[s]",
    ),
    *(
        "|O",
        "|V0",
        "|V8",
        "|S0",
        "<U1",
        "<U0",
        "|S100000000",
        "|V2000000000",
        "(2,3)i4",
        "i4,f8",
        "x",
        "",
    ),
)
_SHAPES = (
    *("()", "(0,)", "(1,)", "(4,)", "(4, 1)", "(-1,)", "(2147483648,)", "(1099511627776,)", "3"),
    *("(0, 4611686018427387904)", "(4611686018427387904, 4)", "(True,)", "(4.0,)", "None"),
    *(f"({10**400},)", f"({'1' * 10_000},)", f"({', '.join('1' * 100)},)", "(" * 90 + ")" * 90),
    *("(" * 5_000, "[" * 5_000 + "]" * 5_000, "(" * 5_000 + ")" * 5_000, "-" * 5_000 + "1"),
)
_MEMBER_NAMES = (
    "../../up.npy",
    "/etc/passwd",
    "",
    "a" * 5_000,
    "\x1b[31m.npy",
    "x_train",
    "\u202e",
    "a/",
)


def damage_npy(rng: random.Random, content: bytes) -> bytes:
    """Damages the header of an array, or any of its bytes."""
    how = rng.randrange(8)
    if how == 0:
        return rng.choice(BYTES)(rng, content)
    start = 10 + int.from_bytes(content[8:10], "little")
    header, data = content[10:start].decode("latin1"), content[start:]
    descr = rng.choice(_DTYPES) if how in (1, 2) else None
    shape = rng.choice(_SHAPES) if how in (2, 3, 4) else None
    if descr is not None:
        structure = "[('a', '<i4'), ('b', 'O')]" if rng.random() < 0.1 else repr(descr)
        header = _with(header, "'descr': ", structure, ", 'fortran_order'")
    if shape is not None:
        header = _with(header, "'shape': ", shape, ", }")
    if how == 5:
        header = rng.choice(
            ("", "{}", "{'descr': '<i4'}", "[]", "9" * 9_000, "(" * 9_000, "\x00" * 50)
        )
    if how == 6:
        header += " " * rng.choice((1, 54, 20_000, 65_000))
    version = rng.choice(((1, 0), (2, 0), (3, 0), (1, 1), (9, 9), (0, 0))) if how == 7 else (1, 0)
    encoded = header.encode("latin1")
    length = len(encoded)
    if rng.random() < 0.1:
        length = rng.choice((0, 1, length - 1, length + 1, 65_535))
    packed = struct.pack("<H" if version == (1, 0) else "<I", length % 65_536)
    return b"\x93NUMPY" + bytes(version) + packed + encoded + data


def _with(header: str, before: str, value: str, after: str) -> str:
    start = header.find(before)
    end = header.find(after, start)
    return header if min(start, end) < 0 else header[: start + len(before)] + value + header[end:]


def damage_pickle(rng: random.Random, content: bytes) -> bytes:
    """Damages the pickle in an array of objects: its bytes, its opcodes, or the object."""
    start = 10 + int.from_bytes(content[8:10], "little")
    how = rng.randrange(4)
    if how == 0:
        return content[:start] + rng.choice(BYTES)(rng, content[start:])
    if how == 1:
        place = rng.randrange(start, len(content))
        return content[:place] + rng.choice(_OPCODES) + content[place:]
    if how == 2:
        return content[:start] + b"\x80\x02" + rng.choice(_OPCODES) + rng.choice(_OPCODES) + b"."
    stream = io.BytesIO()
    rows = rng.choice(_ROWS)
    array = np.empty(len(rows), object)
    for place, row in enumerate(rows):
        array[place] = row
    np.save(stream, array)
    return stream.getvalue()


_OPCODES = (
    *(b"r\x00\x00\x00\x10", b"r\xff\xff\xff\xff", b"q\xff", b"p99999999999\n", b"]" * 2_000_000),
    *(b"(" * 2_000_000, b"}" * 100_000, b"(" * 5_000 + b"t" * 5_000, b"]" * 5_000 + b"a" * 4_999),
    *(
        b"\x8b\xff\xff\xff\x7f",
        b"\x8b\x00\x00\x00\x80",
        b"\x8a\xff",
        b"X\xff\xff\xff\x7f",
        b"B\xff\xff\xff\x7f",
    ),
    *(
        b"\x8e" + b"\xff" * 7 + b"\x3f",
        b"\x96" + b"\xff" * 7 + b"\x3f",
        b"\x95" + b"\xff" * 7 + b"\x3f",
    ),
    *(b"I" + b"9" * 10_000 + b"\n", b"L" + b"9" * 10_000 + b"L\n", b"F1e400\n", b"Fnan\n"),
    *(
        b"cos\nsystem\n(S'true'\ntR",
        b"cbuiltins\neval\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n(tR",
    ),
    *(
        b"c" + b"a" * 100_000 + b"\nb\n",
        b"\x80\x05",
        b"\x80\xff",
        b"\x82\x01",
        b"\x97",
        b"\x98",
        b"P1\n",
        b"Q",
    ),
    *(
        b"0" * 10,
        b"2" * 100_000,
        b"b",
        b"R",
        b"o",
        b"u",
        b"e",
        b"s",
        b"\x81",
        b"\x92",
        b".",
        b"N",
        b"j\xff\xff\xff\x7f",
    ),
    *(
        b"\x8f",
        b"\x91",
        b"\x85",
        b"\x86",
        b"\x87",
        b"l",
        b"d",
        b"t",
        b"a",
        b"\x90",
        b"\x88",
        b"K\x05",
        b"J\xff\xff\xff\xff",
    ),
)
_ROWS: tuple[Sequence[object], ...] = (
    *([[1], True], [[1], [True, False]], [[1], [1.5]], [[1], ["a"]], [[1], [None]], [[1], [[1]]]),
    *(
        [[2**31 - 1]] * 4,
        [[2**31]],
        [[-1], [0]],
        [[2**70]],
        [[10**5_000]],
        [[1], None],
        [[1], {1: 2}],
    ),
    *([], [[]], [[], [], [], []], [[1], (1, 2)], [[1], np.array([1, 2])], [np.array([1.5])]),
    *(
        [np.array([True])],
        [np.array(["a"])],
        [np.array([[1]])],
        [np.array([2**40])],
        [np.float32(1)],
    ),
    *(
        [np.array([7], ">i8")],
        [np.array([7], np.uint64)],
        [[np.int64(3)]],
        [bytearray(b"a")],
        ["text"],
    ),
    *([list(range(100))] * 50, [[5] * 100_000] * 4),
)


def damage_zip(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Changes an archive's members, directory or bytes; returns what was changed, and the
    archive."""
    how = rng.choice(("bytes", "bytes", "flip", "member", "member", "member", "directory"))
    if rng.random() < 0.02:
        how = "bomb"
    if how == "flip":
        return how, BYTES[0](rng, content)
    if how == "bytes":
        return how, rng.choice(BYTES)(rng, content)
    with ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        kind = archive.infolist()[0].compress_type
    name = rng.choice(list(members))
    if how == "member":
        members[name] = member_damage(name, members[name])(rng, members[name])
        return f"{how} {name}", _zip(members, kind)
    if how == "bomb":
        return f"{how} {name}", _with_bomb(rng, members, name)
    return _directory_damage(rng, members, name, kind)


def member_damage(name: str, content: bytes) -> Damage:
    """Returns the damage for a member, by its kind."""
    if name.endswith(".npy"):
        start = 10 + int.from_bytes(content[8:10], "little")
        holds_objects = b"'|O'" in content[:start]
        return damage_any(damage_pickle, damage_pickle, damage_npy) if holds_objects else damage_npy
    if name.endswith(".h5"):
        from benchmarks.faults.hostile_hdf5 import damage_hdf5

        return damage_any(damage_hdf5, *BYTES)
    return damage_any(damage_json, damage_json, damage_json, *BYTES)


def damage_any(*kinds: Damage) -> Damage:
    """Returns a damage that draws one of several for each file."""
    return lambda rng, content: rng.choice(kinds)(rng, content)


def _zip(members: dict[str, bytes], kind: int) -> bytes:
    stream = io.BytesIO()
    with ZipFile(stream, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(ZipInfo(name), content, kind)
    return stream.getvalue()


def _directory_damage(
    rng: random.Random, members: dict[str, bytes], name: str, kind: int
) -> tuple[str, bytes]:
    how = rng.choice(
        ("missing", "renamed", "more", "twice", "method", "encrypted", "number", "swapped", "none")
    )
    if how == "missing":
        del members[name]
    elif how == "renamed":
        members[rng.choice(_MEMBER_NAMES)] = members.pop(name)
    elif how == "more":
        members[rng.choice(_MEMBER_NAMES)] = rng.choice(list(members.values()))
    elif how == "swapped":
        other = rng.choice(list(members))
        members[name], members[other] = members[other], members[name]
    elif how == "method":
        kind = rng.choice((ZIP_BZIP2, ZIP_LZMA, ZIP_DEFLATED, ZIP_STORED))
    elif how == "none":
        members = {}
    content = bytearray(_zip(members, kind))
    if how == "twice":
        other = min((n for n in members if n != name), key=lambda n: abs(len(n) - len(name)))
        if len(other) == len(name):
            content = content.replace(other.encode(), name.encode())
    # Each entry of the directory begins with this signature, before flags, method, CRC and sizes.
    entries = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    if entries and how in ("encrypted", "number"):
        at = rng.choice(entries)
        field, size = (
            (8, 2)
            if how == "encrypted"
            else rng.choice(
                ((10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (34, 2), (42, 4))
            )
        )
        new = rng.choice((0, 1, 0x41, 0x7F, 2 ** (8 * size) - 1, rng.randrange(2 ** (8 * size))))
        content[at + field : at + field + size] = new.to_bytes(size, "little")
    return f"directory {how} {name}", bytes(content)


def _with_bomb(rng: random.Random, members: dict[str, bytes], name: str) -> bytes:
    """Makes a member unpack to hundreds of megabytes; the directory may say less or more."""
    unit = rng.choice((b"\x00", b"]", b"[", b"K\x01", b"(", b" ", b'{"a":'))
    size_mb = rng.choice((5, 50, 300, 900, 1_100))
    head = members[name][: rng.choice((0, 10, 128, 400, 2_000))]
    packed, checksum = _bomb(head, unit, size_mb)
    real = len(head) + size_mb * (1_000_000 // len(unit) * len(unit))
    said = rng.choice((real, real, real, len(head) + 1_000, 2**32 - 2, 0))
    stream = io.BytesIO()
    with ZipFile(stream, "w") as archive:
        for other, content in members.items():
            if other != name:
                archive.writestr(ZipInfo(other), content)
        # Store it unchanged: zipfile would deflate it again. The entry is corrected below.
        archive.writestr(ZipInfo(name), packed)
    content = bytearray(stream.getvalue())
    entries = ((b"PK\x03\x04", 8, 14, 22), (b"PK\x01\x02", 10, 16, 24))
    for mark, method, crc, size in entries:
        at = content.rfind(mark)
        content[at + method : at + method + 2] = struct.pack("<H", ZIP_DEFLATED)
        content[at + crc : at + crc + 4] = struct.pack("<I", checksum)
        content[at + size : at + size + 4] = struct.pack("<I", said)
    return bytes(content)


@functools.lru_cache(100)
def _bomb(head: bytes, unit: bytes, size_mb: int) -> tuple[bytes, int]:
    """Returns a beginning and many repetitions of a unit, deflated, and the checksum of the content
    before."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = unit * (1_000_000 // len(unit))
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    repeated = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.crc32(head)
    for _ in range(size_mb):
        checksum = zlib.crc32(piece, checksum)
    return begin + size_mb * repeated + packer.flush(), checksum
