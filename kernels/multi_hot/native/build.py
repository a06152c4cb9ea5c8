"""Builds the kernels' shared library with the system's compiler, once for each set of inputs, loads
it and registers its kernels with the XLA of this process.

The library is kept in the user's cache folder, under a key of sources, compiler, flags, processor
and XLA's headers. Importing this module starts nothing, and imports no TensorFlow.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kernels import cache
from kernels.files import reached_by
from kernels.multi_hot.registry import UnavailableError

SOURCES = Path(__file__).resolve().parent
_BUILD_TIMEOUT_SECONDS = 300
DIGEST_BYTES = 32
_BUILDING = threading.Lock()
REMEDY = "or use the implementation 'gather', which needs no compiler"


def find_compiler() -> list[str] | None:
    """Return the command of the C++ compiler: $CXX if set, else the first one on the path."""
    named = shlex.split(os.environ.get("CXX", ""))
    commands = [named] if named else [["g++"], ["clang++"], ["c++"]]
    return next((command for command in commands if shutil.which(command[0])), None)


def require_compiler() -> list[str]:
    if compiler := find_compiler():
        return compiler
    tried = os.environ.get("CXX") or "g++, clang++, c++"
    raise UnavailableError(
        f"the native kernels need a C++17 compiler, and none of {tried} can be run: install "
        f"one (Debian, Ubuntu: apt install g++), name it in CXX, {REMEDY}"
    )


def flags() -> list[str]:
    arm = platform.machine() in ("aarch64", "arm64")
    tuned = "-mcpu=native" if arm else "-march=native"
    # Without errno, the compiler turns square roots into vector instructions.
    numbers = ["-O3", tuned, "-fno-math-errno"]
    return ["-std=c++17", *numbers, "-DNDEBUG", "-fPIC", "-pthread", "-Wall", "-Wextra"]


def processor() -> str:
    """Return an identifier of the processor's instruction set: its features, if Linux has them."""
    cpuinfo = Path("/proc/cpuinfo")
    wanted = ("flags", "Features", "model name")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if line.strip()}
    return " ".join([platform.machine(), *(first[name] for name in wanted if name in first)])


class Library(NamedTuple):
    path: Path
    descriptor: int  # of the checked file, whatever happens to its name


@functools.cache
def load(sources: Path = SOURCES) -> tuple[Path, ctypes.CDLL]:
    """Build a library if necessary, load it and register its kernels; return its path and it."""
    import tensorflow as tf

    built = build(sources)
    try:
        # Load the checked file, whatever its name leads to by now. The descriptor stays open,
        # because the loader knows the library by this number, and would take another file of that
        # number for it.
        library = ctypes.CDLL(str(reached_by(built.descriptor)))
        # The name of this library's file ends in the major version.
        (path,) = sorted(Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.*"))[:1]
        get_api = ctypes.CDLL(str(path)).XLA_FFI_GetApi
        get_api.restype = ctypes.c_void_p
        register = library.multi_hot_register
        register.argtypes, register.restype = [ctypes.c_void_p], ctypes.c_bool
        if not register(get_api()):
            raise OSError("XLA refused its kernels")
    except (OSError, ValueError, AttributeError) as error:
        raise UnavailableError(
            f"the native kernels in {built.path} cannot be loaded by TensorFlow {tf.__version__} "
            f"({error}): remove that file, or use the implementation 'gather'"
        ) from error
    return built.path, library


def build(sources: Path = SOURCES) -> Library:
    """Return the library of the sources for this machine, from the cache or else compiled now.

    A second thread waits for the first one's library. Two processes may compile at the same time:
    each replaces the file as a whole. Raises UnavailableError.
    """
    compiler = require_compiler()
    tensorflow = importlib.util.find_spec("tensorflow")
    assert tensorflow is not None
    assert tensorflow.origin is not None
    include = Path(tensorflow.origin).parent / "include"
    prefix = "multi_hot" if sources == SOURCES else f"multi_hot_{sources.name}"
    name = f"{prefix}-{key(compiler, include, sources)}.so"
    with _BUILDING:
        return kept(name, lambda: _compile(compiler, include, sources))


@contextlib.contextmanager
def built_meanwhile() -> Iterator[None]:
    """Build the library on another thread, and wait for it at the end. This raises nothing: code
    that needs the library calls `load`, which waits for that thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(build)
        yield


def kept(name: str, make: Callable[[], bytes]) -> Library:
    """Return a file of the cache folder, made now if there is none of this user's that is
    intact."""
    try:
        path = cache.opened() / name
        if (descriptor := _open_checked(path)) is None:
            content = make()
            cache.write(path, content + hashlib.sha256(content).digest())
            descriptor = _open_checked(path)
        if descriptor is None:
            raise OSError(f"{path} was changed as soon as it was written")
        return Library(path, descriptor)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            f"the native kernels cannot be built: {error}; correct that, name another folder in "
            f"{cache.CACHE_VARIABLE}, {REMEDY}"
        ) from error


def _open_checked(path: Path) -> int | None:
    """Return a descriptor of a file that ends in the SHA-256 of the rest, which loaders ignore;
    None without such a file. A note tells why an existing one was refused."""
    try:
        descriptor = cache.open_file(path)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        reason = str(error)
    else:
        with open(descriptor, "rb", closefd=False) as file:
            content = memoryview(file.read())
        if hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]:
            return descriptor
        os.close(descriptor)
        reason = f"{path} is damaged, or of an earlier version"
    print(f"note: {reason}; the native kernels are compiled again", file=sys.stderr)
    return None


def _compile(compiler: Sequence[str], include: Path, sources: Path) -> bytes:
    # In the cache folder, which can be written to, and where a killed compiler's files are removed.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache.opened()) as scratch:
        library = Path(scratch, "library.so")
        # -isystem: no warnings about XLA's headers.
        source = ["-shared", "-isystem", str(include), str(sources / "binding.cc"), "-ldl"]
        done = subprocess.run(
            [*compiler, *flags(), *source, "-o", str(library)],
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_SECONDS,
            env={**os.environ, "TMPDIR": scratch},
        )
        if done.returncode != 0:
            tail = "\n".join(done.stderr.splitlines()[-15:])
            raise UnavailableError(
                f"{compiler[0]} could not compile the native kernels (exit {done.returncode}):"
                f"\n{tail}\nname another compiler in CXX, {REMEDY}"
            )
        return library.read_bytes()


def key(compiler: Sequence[str], include: Path, folder: Path = SOURCES) -> str:
    """Return a key of the build, in which XLA's headers stand for the version of TensorFlow."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    folders = dict.fromkeys((SOURCES, folder))  # sources in other folders include some of this one
    sources = sorted(f for own in folders for kind in ("*.h", "*.cc") for f in own.glob(kind))
    files = [*sources, *sorted((include / "xla/ffi/api").glob("*.h"))]
    texts = [text for file in files for text in (file.name, file.read_text())]
    parts = [*texts, *compiler, version.stdout, *flags(), processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
