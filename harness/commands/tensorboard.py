"""`harness tensorboard`: TensorBoard on run folders, until Ctrl-C."""

import contextlib
import importlib.util
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from harness.config.profile import TensorBoardConfig
from harness.errors import InputError
from harness.profile.trace import INSTALL


def open_tensorboard(config: TensorBoardConfig, console: Console | None = None) -> int:
    """Runs the command: serves until it is interrupted or terminated; returns 0 then.

    Raises:
        InputError: when a folder is missing or the server cannot listen.
    """
    console = console or Console()
    folders = [Path(name).absolute() for name in config.run_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; name the folder of a run (--run-dir)")
    if importlib.util.find_spec("xprof") is None:
        profiles = any(next(folder.rglob("*.xplane.pb"), None) for folder in folders)
        shown = "the profiles there are not shown" if profiles else "it would not show profiles"
        _print(console, f"note: TensorBoard's profiler pages are missing, {shown}: {INSTALL}")
    # Imported here, as it takes a second; TensorFlow need not be there for it.
    from tensorboard import default, program

    with _as_one(folders) as logdir, _until_stopped() as stopped:
        board = program.TensorBoard(default.get_plugins())
        board.configure(logdir=str(logdir), host=config.host, port=config.port)
        try:
            url = board.launch()
        except program.TensorBoardServerException as error:
            raise InputError(
                f"TensorBoard cannot be served: {error.msg}; name another --port or --host"
            ) from error
        _print(console, f"TensorBoard is at {url} (Ctrl-C ends it)")
        stopped.wait()
    return 0


@contextlib.contextmanager
def _as_one(folders: list[Path]) -> Iterator[Path]:
    """One log folder for TensorBoard: the only one, or a temporary one of links to all of them."""
    if len(folders) == 1:
        yield folders[0]
        return
    with tempfile.TemporaryDirectory(prefix="harness-tensorboard-") as temporary:
        for folder in folders:
            link = Path(temporary) / folder.name
            if link.is_symlink():  # another's last name is the same
                link = Path(temporary) / "_".join(folder.parts[1:])
            link.symlink_to(folder)
        yield Path(temporary)


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one works as usual."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
