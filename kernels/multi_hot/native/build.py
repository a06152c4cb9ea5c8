"""Builds the kernels' shared library with the system's compiler, once per what it depends on.

The library is kept in the user's cache folder, under a key of sources, compiler, flags, processor
and XLA's headers. Importing this module starts nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kernels.multi_hot.registry import UnavailableError

CACHE_VARIABLE = "MULTI_HOT_CACHE"
SOURCES = Path(__file__).resolve().parent
_BUILD_TIMEOUT_SECONDS = 300
_REMEDY = "or use the implementation 'gather', which needs no compiler"


class NativeUnavailableError(UnavailableError):
    """`native` cannot be built or loaded on this machine."""


def find_compiler() -> list[str] | None:
    """Return the command of the C++ compiler: $CXX if set, else the first one on the path."""
    return next((command for command in _commands() if shutil.which(command[0])), None)


def require_compiler() -> list[str]:
    """Return the command of the compiler, or raise NativeUnavailableError with the remedy."""
    compiler = find_compiler()
    if compiler is None:
        tried = ", ".join(command[0] for command in _commands())
        raise NativeUnavailableError(
            f"the native kernels need a C++17 compiler, and none of {tried} can be run: install "
            f"one (Debian, Ubuntu: apt install g++), name it in CXX, {_REMEDY}"
        )
    return compiler


def _commands() -> list[list[str]]:
    named = shlex.split(os.environ.get("CXX", ""))
    return [named] if named else [["g++"], ["clang++"], ["c++"]]


def flags() -> list[str]:
    """Return the compiler's flags except include paths: C++17 for this processor."""
    arm = platform.machine() in ("aarch64", "arm64")
    tuned = "-mcpu=native" if arm else "-march=native"
    return ["-std=c++17", "-O3", tuned, "-DNDEBUG", "-fPIC", "-pthread", "-Wall", "-Wextra"]


def processor() -> str:
    """Return what identifies the processor's instruction set: its features, if Linux lists them."""
    cpuinfo = Path("/proc/cpuinfo")
    wanted = ("flags", "Features", "model name")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if line.strip()}
    return " ".join([platform.machine(), *(first[name] for name in wanted if name in first)])


def cache_folder() -> Path:
    """Return the folder for built libraries, created if necessary.

    $MULTI_HOT_CACHE, else `multi-hot-harness` in $XDG_CACHE_HOME or ~/.cache; if that cannot be
    written to, as in a read-only home, a private folder in the system's temporary one.

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
            status = folder.stat()
            # Another user could put a library there for us to load.
            if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
                raise PermissionError("it belongs to another user, or is writable by everybody")
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise NativeUnavailableError(
        f"the native kernels have no folder to be built in ({'; '.join(reasons)}): name a writable "
        f"one in {CACHE_VARIABLE}, {_REMEDY}"
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` at the end, or vanishes if the body raises."""
    descriptor, name = tempfile.mkstemp(prefix="multi_hot-", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def build(include: Path) -> Path:
    """Return the library for this machine: from the cache, or else compiled now.

    Two processes may do this at the same time: each replaces the file as a whole. What killed
    builds left behind is removed once no build can still write to it.

    Args:
      include: the folder of TensorFlow's headers, which contains XLA's.

    Raises:
      NativeUnavailableError: no compiler, no folder to write to, or the compilation failed.
    """
    compiler = require_compiler()
    path = cache_folder() / f"multi_hot-{key(compiler, include)}.so"
    if path.exists():
        return path
    for file in path.parent.glob("multi_hot-*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another process removes them too
            if time.time() - file.stat().st_mtime > _BUILD_TIMEOUT_SECONDS:
                file.unlink()
    # -isystem: no warnings about XLA's headers.
    source = ["-shared", "-isystem", str(include), str(SOURCES / "binding.cc")]
    try:
        with replacing(path) as temporary:
            done = subprocess.run(
                [*compiler, *flags(), *source, "-o", str(temporary)],
                capture_output=True,
                text=True,
                timeout=_BUILD_TIMEOUT_SECONDS,
            )
            if done.returncode != 0:
                tail = "\n".join(done.stderr.splitlines()[-15:])
                raise NativeUnavailableError(
                    f"{compiler[0]} could not compile the native kernels (exit {done.returncode}):"
                    f"\n{tail}\nname another compiler in CXX, {_REMEDY}"
                )
            temporary.chmod(0o700)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailableError(
            f"compiling the native kernels to {path} failed: {error}; correct that, {_REMEDY}"
        ) from error
    return path


def key(compiler: Sequence[str], include: Path) -> str:
    """Return the name of the build: equal keys mean that the same library would come out.

    It depends on the headers of XLA's foreign function interface rather than on TensorFlow's
    version, which several distributions provide (tensorflow, tensorflow-cpu, tf-nightly).
    """
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    sources = sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cc")])
    files = [*sources, *sorted((include / "xla/ffi/api").glob("*.h"))]
    texts = [text for file in files for text in (file.name, file.read_text())]
    parts = [*texts, *compiler, version.stdout, *flags(), processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
