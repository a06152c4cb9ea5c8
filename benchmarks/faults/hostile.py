"""Hostile files of every format: each must give the right answer, or one message.

    .venv/bin/python -m benchmarks.faults.hostile --seed 1   # 100 of each format, as CI does
    .venv/bin/python -m benchmarks.faults.hostile --formats npz --files 10000

A hostile file is a valid one with flipped bits, other bytes, numbers, texts or members, or
something else lies in its place. Its number and the seed decide. A file fails if reading it ends in
any exception but an `InputError` or an `OSError` that names a file, takes more than a minute or
1 GB, prints, changes a file, or gives another answer although its format has checksums. In a sealed
store, a field of meta.json or an element of an array is another under a checksum that is right.

The exit code is 1 if a file failed.
"""

import argparse
import contextlib
import faulthandler
import functools
import io
import multiprocessing
import os
import random
import re
import shutil
import stat
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from benchmarks.faults.hostile_formats import FORMATS, Format
from harness.base.errors import InputError
from harness.run.machine import peak_rss_bytes

_MOST_SECONDS = 60
_MOST_BYTES = 1_000_000_000
_MOST_CHARACTERS = 2_500
_NO_FILE_SHARE = 0.02
_TOKEN = re.compile(rb'"[^"\n]*"|[\w.+-]+')
_FIELD = re.compile(rb'(?<=": ).*?(?=,?\n)')
_VALUES = (
    *(b"-1", b"0", b"1.5", b"1e999", b"NaN", b"2147483648", b"9" * 400, b"true", b"null", b'""'),
    *(b'"\\u001b[31m"', b'"' + b"x" * 5_000 + b'"', b"[]", b"{}", b"[" * 3_000, b'{"a": [1]}'),
    b"2147483647",
)
_TEXTS = (".json", ".jsonl", ".toml", ".csv", ".tsv", ".svm")
_CONTROL = re.compile(r"[^\n\t -~\xa0-\ud7ff\ue000-\U0010ffff]")


def damaged(rng: random.Random, path: Path) -> str:
    """Damages the file at `path`; returns how."""
    if rng.random() < _NO_FILE_SHARE:
        return _no_file(rng, path)
    if path.suffix in (".npz", ".keras", ".zip") and rng.random() < 0.6:
        return _damaged_member(rng, path)
    how, content = _other_bytes(rng, path.read_bytes(), is_text=path.suffix in _TEXTS)
    path.write_bytes(content)
    return how


def changed(rng: random.Random, path: Path) -> str:
    """Changes a field of the JSON file at `path`, or an element of an array; returns how."""
    content = path.read_bytes()
    if path.suffix == ".json":
        start, stop = rng.choice([field.span() for field in _FIELD.finditer(content)])
        new = rng.choice(_VALUES)
    else:
        stop = len(content) - 4 * rng.randrange(8)  # the arrays are small
        start, new = stop - 4, rng.choice((rng.randbytes(4), b"\xff\xff\xff\x7f", bytes(4)))
    path.write_bytes(content[:start] + new + content[stop:])
    return f"bytes {start} to {stop} are {new[:50]!r}"


def _damaged_member(rng: random.Random, path: Path) -> str:
    """Damages a member of an archive under a valid checksum, so that it is what its reader sees."""
    with ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    how = rng.choice(("missing", "renamed", "large", "bytes", "bytes", "bytes"))
    if how == "missing":
        del members[name]
    elif how == "renamed":
        members[rng.choice(("../a", "/a", "a" * 300, name.upper()))] = members.pop(name)
    elif how == "large":
        members[name] = bytes(50_000_000)
    else:
        how, members[name] = _other_bytes(rng, members[name], is_text=name.endswith(".json"))
    kind = rng.choice((ZIP_STORED, ZIP_DEFLATED))
    with ZipFile(path, "w", kind) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return f"member {name}: {how}"


def _other_bytes(rng: random.Random, content: bytes, *, is_text: bool) -> tuple[str, bytes]:
    """Returns other bytes, and how they differ."""
    how = rng.choice(("flip", "cut", "bytes", "header", *4 * ("value" if is_text else "flip",)))
    place = rng.randrange(len(content)) if content else 0
    if how == "cut":
        return how, content[:place]
    if how == "flip" and content:
        flipped = content[place] ^ 1 << rng.randrange(8)
        return how, content[:place] + bytes([flipped]) + content[place + 1 :]
    if how == "header":
        place = min(place, 100)
    tokens = list(_TOKEN.finditer(content)) if how == "value" else []
    if tokens:
        start, stop = rng.choice(tokens).span()
        return how, content[:start] + rng.choice(_VALUES) + content[stop:]
    new = rng.randbytes(rng.choice((1, 2, 4, 8, 100)))
    # LONG_BINPUT lets a pickle take many gigabytes: see SECURITY.md.
    return how, content[:place] + new.replace(b"r", b"s") + content[place + len(new) :]


def _no_file(rng: random.Random, path: Path) -> str:
    """Puts something else in the place of a file, or nothing; returns what."""
    path.unlink()
    links = {"zeros": "/dev/zero", "dangling": "nowhere", "loop": path.name, "long": "n" * 300}
    kind = rng.choice(("nothing", "pipe", "folder", *links))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in links:
        path.symlink_to(links[kind])
    return kind


class Trial:
    """A format, its valid input, and the reader's answer to that."""

    def __init__(self, name: str, format_: Format, place: Path) -> None:
        self._name, self._format = name, format_
        self._valid, self._folder = place / "valid", place / "damaged"
        self._valid.mkdir()
        format_.write(self._valid)
        self._answer = format_.read(self._valid)

    def run(self, seed: int, index: int) -> tuple[str, str | None]:
        """Makes one file and reads it; returns the outcome, and what is wrong, if anything is."""
        rng = random.Random(f"{seed}/{self._name}/{index}")
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._valid, self._folder)
        target = self._folder / rng.choice(self._format.targets)
        how = (changed if self._format.seal else damaged)(rng, target)
        if self._format.seal:
            with contextlib.suppress(ValueError, RecursionError):  # it is no JSON any more
                self._format.seal(self._folder)
        before = _content(self._folder)
        Path("/proc/self/clear_refs").write_text("5")  # so that the peak is that of this file
        held = peak_rss_bytes()
        printed, answer, message, failure = io.StringIO(), None, "", None
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                answer = self._format.read(self._folder)
        except InputError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            if not (isinstance(error, OSError) and error.filename):
                failure = traceback.format_exc(limit=-6)[-3_000:]
        # A flipped bit may lie where no checksum is, as in the padding of a header; a member that
        # was written anew has a valid one.
        is_sealed = self._format.is_checked and not how.startswith("member")
        if printed.getvalue():
            failure = f"it prints {printed.getvalue():.300}"
        elif (taken := peak_rss_bytes() - held) > _MOST_BYTES:
            failure = f"it takes {taken:,} bytes"
        elif _content(self._folder) != before:
            failure = "a file was changed"
        elif is_sealed and answer is not None and answer != self._answer:
            failure = "another answer is believed"
        elif len(message) > _MOST_CHARACTERS or _CONTROL.search(message):
            failure = f"the message is {message[:300]!r}"
        outcome = "failed" if failure else "refused" if answer is None else "answered"
        return outcome, failure and f"{target.name}, {how}: {failure}"


def _content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None
        for path in sorted(folder.rglob("*"))
    }


def examine(name: str, *, files: int, seed: int) -> int:
    """Runs the files of one format in this process; returns its exit code."""
    warnings.simplefilter("always")
    warnings.filterwarnings("ignore", "__array__ implementation")  # Keras's own; see pyproject.toml
    warnings.filterwarnings("ignore", "When providing `inputs` as a dict")  # Keras's advice
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        trial = Trial(name, FORMATS[name], Path(place))
        for index in range(files):
            faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True)
            outcome, failure = trial.run(seed, index)
            faulthandler.cancel_dump_traceback_later()
            outcomes[outcome] += 1
            if failure:
                print(f"FAILED: {name}, file {index}: {failure}", flush=True)
    counts = ", ".join(f"{n:,} {kind}" for kind, n in sorted(outcomes.items()))
    print(f"{name}: {counts}", flush=True)
    return 1 if outcomes["failed"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--files", type=int, default=100, help="files of each format")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    given = parser.parse_args()
    print(f"--seed {given.seed}", flush=True)
    examined = functools.partial(examine, files=given.files, seed=given.seed)
    # New processes for each format: a file may end its process, which breaks the pool.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        return max(pool.map(examined, given.formats))


if __name__ == "__main__":
    sys.exit(main())
