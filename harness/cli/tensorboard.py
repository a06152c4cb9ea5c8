"""`harness tensorboard`: runs TensorBoard on run folders, until Ctrl-C."""

import contextlib
import importlib
import importlib.util
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from harness.base.checks import Checked, Whole, require
from harness.base.errors import InputError
from harness.base.quiet import quiet_import
from harness.run.observers.run_files import EVENT_FILES

INSTALL_XPROF = f"{sys.executable} -m pip install 'xprof>=2.24,<3' (the extra `profile`)"


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig(Checked):
    """Open TensorBoard on run folders, with the profiler's pages where they are installed. Ctrl-C
    ends it."""

    run_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs or profiles, or one around them; a single one for the profiler's pages."""
    port: Annotated[int, Whole(0, 65_535)] = 6006
    """Port of the server. 0: any free one."""
    host: str = "localhost"
    """Address to serve on. 0.0.0.0 lets other machines in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.run_dirs) > 0, "there is no folder to show; name at least one run folder")


def open_tensorboard(config: TensorBoardConfig) -> int:
    console = Console()
    folders = [Path(name).absolute() for name in config.run_dirs]
    for folder in folders:
        ok = folder.is_dir()
        require(ok, f"{folder} is not a folder; name the folder of a run (--run-dir)")
    with_profiles = importlib.util.find_spec("xprof") is not None
    if not with_profiles:
        console.out(f"note: TensorBoard's profiler pages are missing: {INSTALL_XPROF}")
    with quiet_import():  # the plugins import TensorFlow
        from tensorboard import default, program
        from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

        if with_profiles:
            # The plugin writes a line for every request to the standard error that it finds when it
            # is imported, and a traceback when a profile is opened for the first time. Its pages
            # show real failures.
            nowhere = open(os.devnull, "w")  # noqa: SIM115
            with contextlib.redirect_stderr(nowhere):
                importlib.import_module("xprof.profile_plugin")

        # The browser opens on the first page: the one with loss, accuracy and throughput.
        plugins = sorted(default.get_plugins(), key=lambda kind: kind is not CustomScalarsPlugin)
        board = program.TensorBoard(plugins)
        board.configure(**places(folders), host=config.host, port=config.port)
        try:
            url = board.launch()
        except program.TensorBoardServerException as error:
            raise InputError(
                f"TensorBoard cannot be served: {error.msg}; name another --port or --host"
            ) from error
    console.out(f"TensorBoard is at {url} (Ctrl-C ends it)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    return 0


def places(folders: list[Path]) -> dict[str, str]:
    """Returns TensorBoard's flag for one folder, or that for several, each with a name."""
    first = folders[0]
    # By its flag for one folder, TensorBoard would call a run "."; profiles need that flag.
    is_run = next(first.glob(EVENT_FILES), None) and not (first / "plugins").exists()
    odd = next((folder for folder in folders if {",", ":"} & set(str(folder))), None)
    if len(folders) == 1 and (not is_run or odd):
        return {"logdir": str(first)}
    require(odd is None, f"{odd} has a comma or a colon in its name; open it alone")
    # Runs are told apart by their folders' names, or else by their whole paths.
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = ["_".join(folder.parts[1:]) for folder in folders]
    pairs = zip(names, folders, strict=True)
    return {"logdir_spec": ",".join(f"{name}:{folder}" for name, folder in pairs)}
