"""Builds the kernels' shared library with the system's compiler, once per what it depends on.

The library lies in a cache of the user's under a key of sources, compiler, flags, processor and
TensorFlow version. Importing this imports no TensorFlow and starts nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "MULTI_HOT_CACHE"
SOURCES = Path(__file__).resolve().parent
_COMPILERS = ("g++", "clang++", "c++")
_BUILD_TIMEOUT_SECONDS = 300
_REMEDY = "or use the implementation 'gather', which needs no compiler"


class NativeUnavailableError(ValueError):
    """`native` was asked for and cannot be had here; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """A library that can be loaded."""

    path: Path

    compile_seconds: float
    """0 when it was found in the cache."""


def find_compiler() -> list[str] | None:
    """Return the command of the C++ compiler: $CXX if set, else the first one on the path.

    Raises:
      NativeUnavailableError: CXX is set to something that cannot be run.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise NativeUnavailableError(
                f"CXX names {named[0]!r}, which cannot be run: correct or unset it, {_REMEDY}"
            )
        return named
    for name in _COMPILERS:
        if found := shutil.which(name):
            return [found]
    return None


def require_compiler() -> list[str]:
    """Return the command of the compiler, or raise NativeUnavailableError with the remedy."""
    compiler = find_compiler()
    if compiler is None:
        raise NativeUnavailableError(
            f"the native kernels need a C++17 compiler, and none of {', '.join(_COMPILERS)} is on "
            f"the path: install one (Debian, Ubuntu: apt install g++), name it in CXX, {_REMEDY}"
        )
    return compiler


def flags(*, optimize: str = "-O3") -> list[str]:
    """Return the compiler's flags, but for the headers' place: C++17 for this very processor."""
    arm = platform.machine() in ("aarch64", "arm64")
    tuned = "-mcpu=native" if arm else "-march=native"
    return ["-std=c++17", optimize, tuned, "-DNDEBUG", "-fPIC", "-pthread", "-Wall", "-Wextra"]


def processor() -> str:
    """Return what identifies the processor's instruction set: its features where they are told."""
    cpuinfo = Path("/proc/cpuinfo")
    wanted = ("flags", "Features", "model name")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if line.strip()}
    return " ".join([platform.machine(), *(first[name] for name in wanted if name in first)])


def cache_folder() -> Path:
    """Return the folder for built libraries, made if need be.

    $MULTI_HOT_CACHE, else `multi-hot-harness` in $XDG_CACHE_HOME or ~/.cache; where that cannot
    be written, as in a read-only home, a folder of this user alone under the system's temporary
    one.

    Raises:
      NativeUnavailableError: none of them can be used.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        candidates = [Path(named)]
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        temporary = Path(tempfile.gettempdir()) / f"multi-hot-harness-{os.getuid()}"
        candidates = [home / "multi-hot-harness", temporary]
    reasons = []
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owned(folder)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise NativeUnavailableError(
        f"the native kernels find no folder to be built in ({'; '.join(reasons)}): name a writable "
        f"one in {CACHE_VARIABLE}, {_REMEDY}"
    )


def _check_owned(folder: Path) -> None:
    """Raise PermissionError where another user could put a library for us to load."""
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
        raise PermissionError(f"{folder} is another user's, or writable by everybody")


def build(include: Path) -> Build:
    """Return the library for this machine, compiled now unless the cache has it.

    Two processes may do this at once: each writes its own file and renames it.

    Args:
      include: the folder of TensorFlow's headers, which hold XLA's.

    Raises:
      NativeUnavailableError: no compiler, no folder to write to, or the compilation failed.
    """
    compiler = require_compiler()
    path = cache_folder() / f"multi_hot-{key(compiler, include)}.so"
    if path.exists():
        return Build(path=path, compile_seconds=0.0)
    start = time.perf_counter()
    compile_to(
        path,
        [SOURCES / "binding.cc"],
        # XLA's headers are not ours to warn about.
        [*compiler, *flags(), "-shared", "-isystem", str(include)],
    )
    return Build(path=path, compile_seconds=time.perf_counter() - start)


def compile_to(path: Path, sources: Sequence[Path], command: Sequence[str]) -> None:
    """Run `command` on the sources; `path` appears whole or not at all.

    Raises:
      NativeUnavailableError: the compiler failed; its last lines are in the message.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    try:
        done = subprocess.run(
            [*command, *map(str, sources), "-o", name],
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stderr.splitlines()[-15:])
            raise NativeUnavailableError(
                f"{command[0]} could not compile the native kernels (exit {done.returncode}):\n"
                f"{tail}\nUse another compiler through CXX, {_REMEDY}"
            )
        os.chmod(name, 0o700)
        os.replace(name, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailableError(
            f"compiling the native kernels to {path} failed: {error}; correct that, {_REMEDY}"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def key(compiler: Sequence[str], include: Path) -> str:
    """Return the name of the build: equal keys mean that the same library would come out."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    digest = hashlib.sha256()
    for part in (
        *(name for source in source_files() for name in (source.name, source.read_text())),
        *compiler,
        version.stdout,
        *flags(),
        processor(),
        importlib.metadata.version("tensorflow"),
        str(include),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def source_files() -> list[Path]:
    """Return the C++ sources and headers, in a fixed order."""
    return sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cc")])
