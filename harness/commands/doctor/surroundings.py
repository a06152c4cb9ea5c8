"""What stands around a run: TensorBoard and its plugin, data sets, and room on the disks."""

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.commands.doctor.finding import Finding
from harness.data.keras_cache import cached_file
from kernels.multi_hot.native.build import NativeUnavailableError, cache_folder

_LEAST_FREE_BYTES = 10**9
"""A run of the tutorial's size writes 20 MB; a profile or a wide network some hundred."""


def surroundings() -> Iterator[Finding]:
    """TensorBoard, its profile plugin, data sets, disks."""
    yield _tensorboard()
    yield _profile_plugin()
    yield _dataset()
    yield from _disks()


def _tensorboard() -> Finding:
    text = f"{version('tensorboard')}: harness tensorboard RUN_DIR"
    return Finding(subject="TensorBoard", part="tensorboard", state="ok", text=text)


def _profile_plugin() -> Finding:
    subject = "profile plugin"
    try:
        found = version("xprof")
    except PackageNotFoundError:
        text = "xprof is not installed: pip install 'xprof>=2.20,<3', for harness profile and "
        text += "TensorBoard's Profile tab"
        return Finding(subject=subject, part="profile", state="limited", text=text)
    # The older package of the same plugin: TensorBoard would show the tab twice, or fail.
    if importlib.util.find_spec("tensorboard_plugin_profile") and _is_installed(
        "tensorboard-plugin-profile"
    ):
        text = f"xprof {found}, and tensorboard-plugin-profile beside it: pip uninstall the latter"
        return Finding(subject=subject, part="profile", state="limited", text=text)
    return Finding(subject=subject, part="profile", state="ok", text=f"xprof {found}")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _dataset() -> Finding:
    path = cached_file("imdb.npz")
    if path.is_file():
        text = f"imdb at {path} ({path.stat().st_size / 1e6:.1f} MB), and synthetic"
        return Finding(subject="data sets", part="data", state="ok", text=text)
    text = f"synthetic alone; no {path}: the first run with --data imdb downloads it, or put it "
    text += "there"
    return Finding(subject="data sets", part="data", state="limited", text=text)


def _disks() -> Iterator[Finding]:
    places = {"run folders": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    with contextlib.suppress(NativeUnavailableError):  # the kernels' own line says why
        places["kernel cache"] = cache_folder()
    for what, place in places.items():
        free_bytes = shutil.disk_usage(place).free
        text = f"{free_bytes / 1e9:,.1f} GB free for {what}, at {place}"
        if free_bytes < _LEAST_FREE_BYTES:
            text += ": make room, or the run ends with a full disk"
            yield Finding(subject="disk", state="limited", text=text)
        else:
            yield Finding(subject="disk", state="ok", text=text)
