"""XLA's programs from run to run: what one compiled, the next with the same settings loads.

TensorFlow can write what it compiles into a folder, and read it from there. Left to itself, a
damaged file in it or a full disk ends the training. So TensorFlow gets a folder of this process
alone, with copies of those files whose content is proven; what is new in it is kept when the
training is over.
"""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from harness.engine.private_folder import LONG_SECONDS, private_folder
from harness.files import replacing
from harness.records import Choice
from kernels.multi_hot.native import build

VARIABLE = "TF_XLA_FLAGS"
_FLAGS = "--tf_xla_persistent_cache_"
FOLDER_FLAG = f"{_FLAGS}directory"
_DEVICES_FLAG = f"{_FLAGS}device_types"
_PREFIX = "harness-xla-"
_DECIDING = ("TF_", "XLA_", "OMP_", "MKL_", "ONEDNN_", "DNNL_")
"""Beginnings of the names of environment variables that may decide what is compiled."""
_PROGRAMS_KEPT = 64
"""Of the same settings, the latest: each capacity has programs of its own, nine of them with two
replicas in float16."""
_ROOM_BYTES = 2**27
"""A program of the tutorial's size takes 1 MB, so that this is plenty."""
_DIGEST_LENGTH = 64


class CompilationCache:
    """Programs for runs with the same settings, on the same kind of machine.

    They are TensorFlow's own, found by what is to be compiled: the settings only decide which of
    them are looked at. On the CPU alone, since nothing is known of it elsewhere.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        off: str | None,
        is_first: bool,
        max_bytes: int = 2**28,
    ) -> None:
        """Makes TensorFlow use the cache, unless something speaks against it; see `choice`.

        Args:
            settings: what programs may depend on.
            off: why it is not to be used; None where it may.
            is_first: whether no operation has run in this process; else TensorFlow no longer reads
                where its cache is.
            max_bytes: of all programs, beyond which those of the settings used longest ago go.
        """
        self._max_bytes = max_bytes
        self._num_sound = self._num_damaged = 0
        self._private: Path | None = None
        try:
            self._off = off or _obstacle(is_first)
            if self._off is not None:
                return
            self._kept = build.cache_folder() / f"xla-{_key(settings)}"
            self._private = private_folder(_PREFIX)
            sound = [_copy_sound(path, self._private) for path in _files(self._kept)]
        except build.NativeUnavailableError:
            self._off = f"no folder for it can be written to; name one in {build.CACHE_VARIABLE}"
            return
        except OSError as error:
            self._private = None
            self._off = f"it cannot be read: {error}"
            return
        self._num_sound, self._num_damaged = sound.count(True), sound.count(False)
        # Before TensorFlow is asked for its devices, when it reads them; and before the user's, for
        # it stops reading at what is no flag.
        flags = [f"{FOLDER_FLAG}={self._private}", f"{_DEVICES_FLAG}=CPU"]
        os.environ[VARIABLE] = " ".join([*flags, os.environ.get(VARIABLE, "")]).strip()

    @property
    def choice(self) -> Choice:
        """`on` or `off`, once the devices are set up."""
        if self._off is None and tf.config.get_visible_devices("GPU"):
            return Choice(name="off", why="it is for the CPU alone")
        if self._off is not None:
            return Choice(name="off", why=self._off)
        why = f"{_count(self._num_sound, 'program')} of earlier runs with these settings"
        if self._num_damaged:
            why += f"; {_count(self._num_damaged, 'damaged file')} removed"
        return Choice(name="on", why=why)

    @property
    def num_programs(self) -> int:
        """Of earlier runs, at the start; 0 where the cache is off."""
        return self._num_sound if self.choice.name == "on" else 0

    def keep(self) -> None:
        """Keeps what was compiled, for later runs.

        Raises:
            OSError: it cannot be written; what was kept before still is.
        """
        if self._private is None:
            return
        self._remove_torn()
        known = {_name(path) for path in _files(self._kept)}
        new = [path for path in _files(self._private) if path.name not in known]
        if new:
            self._kept.mkdir(mode=0o700, exist_ok=True)
        for path in new:
            content = path.read_bytes()
            with replacing(self._kept / f"{_digest(content)}-{path.name}") as beside:
                beside.write_bytes(content)
        # Another process may remove the same meanwhile.
        for path in sorted(_files(self._kept), key=_last_change)[:-_PROGRAMS_KEPT]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # nothing was compiled
            os.utime(self._kept)
        num_bytes = 0
        for folder in sorted(self._kept.parent.glob("xla-*"), key=_last_change, reverse=True):
            num_bytes += sum(map(_size, _files(folder)))
            if num_bytes > self._max_bytes:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_torn(self) -> None:
        """Those that were being written when a process was killed."""
        for path in self._kept.glob(".*"):
            if time.time() - _last_change(path) > LONG_SECONDS:
                path.unlink(missing_ok=True)


def _obstacle(is_first: bool) -> str | None:
    """What speaks against using the cache."""
    flags = os.environ.get(VARIABLE, "").strip()
    if _FLAGS in flags:
        return f"{VARIABLE} names one, which is TensorFlow's affair"
    if flags and not flags.startswith("--"):
        return f"{VARIABLE} holds the name of a file"
    if "xla_dump" in os.environ.get("XLA_FLAGS", ""):
        return "XLA_FLAGS asks for dumps, which only a compilation writes"
    if not is_first:
        return "TensorFlow was used in this process before"
    temporary = tempfile.gettempdir()
    if any(letter.isspace() for letter in temporary):
        return f"{VARIABLE} cannot name {temporary!r}"
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = shutil.disk_usage(temporary).free
    if limit != resource.RLIM_INFINITY:
        room = min(room, limit)
    if room < _ROOM_BYTES:
        return f"there is room for {room:,} bytes in {temporary}"
    return None


def _key(settings: Mapping[str, Any]) -> str:
    """Of all that a program may depend on, beside what TensorFlow finds it by."""
    environment = {k: v for k, v in os.environ.items() if k.startswith(_DECIDING)}
    deciding = {
        "settings": settings,
        "versions": [tf.version.VERSION, tf.version.GIT_VERSION, keras.__version__],
        "processor": [build.processor(), len(os.sched_getaffinity(0))],
        "environment": environment,
    }
    return _digest(json.dumps(deciding, sort_keys=True).encode())[:24]


def _copy_sound(kept: Path, private: Path) -> bool | None:
    """Copies a program if it is as it was written, or else removes it; returns whether it is, None
    where another process has removed it meanwhile."""
    try:
        content = kept.read_bytes()
    except FileNotFoundError:
        return None
    if not kept.name.startswith(f"{_digest(content)}-"):
        kept.unlink(missing_ok=True)
        return False
    (private / _name(kept)).write_bytes(content)
    return True


def _files(folder: Path) -> list[Path]:
    # Those whose names begin with a dot are being written.
    return [path for path in sorted(folder.glob("[!.]*")) if path.is_file()]


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _name(kept: Path) -> str:
    """TensorFlow's name of a program that is kept."""
    return kept.name[_DIGEST_LENGTH + 1 :]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _last_change(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
