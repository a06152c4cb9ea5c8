"""Feeds hostile files of one format to its reader, in this process, and reports the result of each.

    python -m benchmarks.faults.hostile_worker FORMAT SEED FLIPS FIRST STOP FOLDER KEPT

It writes a line of JSON before and after each file; the process that started it watches the time.
"""

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import stat
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults.hostile_archives import damage_npy, damage_zip
from benchmarks.faults.hostile_bytes import (
    BYTES,
    damage_json,
    damage_lines,
    damage_toml,
    flip,
    no_file,
)
from benchmarks.faults.hostile_formats import Format, Reader, format_named
from harness.base.errors import InputError
from harness.cli.main import main as command_line

MAX_BYTES = 1_050_000_000
"""The most bytes that reading a file may take, besides the 0.45 GB of a process that has imported
everything: 1.5 GB in all."""
_MAX_MESSAGE = 2_500
_NO_FILE_SHARE = 0.02
_COMMAND_EVERY = 50
_CONTROL = re.compile(r"[^\n\t -~\xa0-\ud7ff\ue000-\U0010ffff]")
_OF_SUFFIX = {
    ".json": damage_json,
    ".jsonl": damage_lines,
    ".toml": damage_toml,
    ".npy": damage_npy,
}


def damaged(rng: random.Random, path: Path, *, flips: bool = False) -> str:
    """Damages the file at `path`, with `flips` by a single bit; returns how."""
    if flips:
        path.write_bytes(flip(rng, path.read_bytes()))
        return "flip"
    if rng.random() < _NO_FILE_SHARE:
        return f"no file: {no_file(rng, path)}"
    content = path.read_bytes()
    if path.suffix in (".npz", ".keras"):
        how, new = damage_zip(rng, content)
    else:
        own = (_OF_SUFFIX[path.suffix],) if path.suffix in _OF_SUFFIX else BYTES[4:]
        damage = rng.choice((*BYTES[:4], *(own * 6)[:6]))
        how, new = damage.__name__, damage(rng, content)
    path.write_bytes(new)
    return how


class Trial:
    """A format, its valid input, and the reader's answer to that."""

    def __init__(self, format_: Format, name: str, place: Path) -> None:
        """Args:
        format_: the format of the files.
        name: the name of the format, which decides the damage together with the seed.
        place: an empty folder.
        """
        self.format, self.name = format_, name
        self._valid = place / "valid"
        self.folder = place / "damaged"
        self._valid.mkdir()
        self.format.write(self._valid)
        self._reader: Reader = self.format.reader(self._valid)
        self._answer = self._reader(self._of_valid())

    def _of_valid(self) -> Path:
        """Makes a fresh copy of the valid input."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        shutil.copytree(self._valid, self.folder)
        return self.folder

    def run(self, seed: int, index: int, *, flips: bool) -> dict[str, Any]:
        """Makes one file and reads it; returns `how`, `outcome` and, if it failed, `failure`."""
        rng = random.Random(f"{seed}/{self.name}/{index}")
        target = rng.choice(self.format.targets)
        how = damaged(rng, self._of_valid() / target, flips=flips)
        before = _content(self.folder)
        Path("/proc/self/clear_refs").write_text("5")  # so that the peak is that of this file
        held = _peak_bytes()
        with io.StringIO() as printed:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                answer, message, failure = self._outcome()
            failure = failure or (printed.getvalue() and f"it prints {printed.getvalue():.300}")
        peak = _peak_bytes()
        is_kept = how in ("flip", "bytes") or how.startswith(("directory number", "directory encr"))
        is_kept = self.format.is_checked and (is_kept or self.format.has_seal)
        if failure:
            pass
        elif peak - held > MAX_BYTES:
            failure = f"it takes {peak - held:,} bytes"
        elif _content(self.folder) != before:
            failure = "a file was changed"
        elif answer is not None and is_kept and answer != self._answer:
            failure = "another answer is believed"
        elif message is not None and (len(message) > _MAX_MESSAGE or _CONTROL.search(message)):
            failure = f"the message is {message[:300]!r}"
        elif index % _COMMAND_EVERY == 0 and self.format.command:
            failure = self._by_command()
        outcome = "failed" if failure else "refused" if message is not None else "answered"
        return {"how": f"{target}: {how}", "outcome": outcome, "failure": failure, "peak": peak}

    def _outcome(self) -> tuple[str | None, str | None, str | None]:
        """Reads the folder; returns the answer, the one message, or the failure."""
        try:
            return self._reader(self.folder), None, None
        except InputError as error:
            return None, str(error), None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
            if isinstance(error, OSError) and error.filename and self.format.command:
                # The error has a file's name: the command makes the message.
                return None, str(error.strerror), self._by_command()
            return None, None, traceback.format_exc(limit=-6)[-3_000:]

    def _by_command(self) -> str | None:
        """Lets the command itself read the folder; returns what is wrong."""
        assert self.format.command is not None
        streams = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                code = command_line(self.format.command(self.folder))
            except BaseException:  # noqa: BLE001 - as above
                return traceback.format_exc(limit=-6)[-3_000:]
        errors = streams[1].getvalue()
        one_message = errors.startswith("error: ") and "\nerror: " not in errors
        if (code == 2 and one_message) or (code == 0 and not errors):
            return None
        return f"the command ends with {code} and prints {errors:.300}"


def _content(folder: Path) -> Mapping[str, bytes | None]:
    """Returns the contents of all files below a folder, and None for everything else."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if _is_file(path) else None
        for path in sorted(folder.rglob("*"))
    }


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index("VmHWM:") + 1])


def main() -> None:
    name, seed, flips, first, stop, place, kept = sys.argv[1:]
    warnings.simplefilter("always")
    warnings.filterwarnings("ignore", "__array__ implementation")  # Keras's own; see pyproject.toml
    # Keras's advice about names, which it also gives for models that are not damaged.
    warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
    # Bound the memory that a failure takes, for the sake of the other processes.
    resource.setrlimit(resource.RLIMIT_DATA, (12_000_000_000, resource.RLIM_INFINITY))
    with os.fdopen(os.dup(1), "w", buffering=1) as told:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        trial = Trial(format_named(name), name, Path(place))
        for index in range(int(first), int(stop)):
            print(json.dumps({"begins": index}), file=told)
            verdict = trial.run(int(seed), index, flips=flips == "True")
            if verdict["failure"] and kept:
                kept_at = Path(kept, f"{name}-{seed}-{index}")
                shutil.copytree(trial.folder, kept_at, symlinks=True, dirs_exist_ok=True)
            print(json.dumps({"index": index, **verdict}), file=told)


if __name__ == "__main__":
    main()
