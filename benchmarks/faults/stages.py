"""The stage of a process, by the stacks of its threads, for a program that is about to kill it."""

import mmap
import sys
import threading
import time
from types import FrameType

_EVERY_SECONDS = 0.001
_LENGTH = 64
_STAGES = (
    # Each stage has a part of a file's name and the beginning of a function's; "" fits any. The
    # first stage that a thread is in counts.
    ("checkpoint write", "program/checkpoints.py", "_write"),
    ("event write", "run/observers/event_file.py", ""),
    ("metrics write", "run/observers/jsonl.py", "_append"),
    ("model write", "model/saved.py", "save_model"),
    ("config or summary write", "run/observers/run_files.py", "on_"),
    ("evaluation", "program/programs.py", "evaluate"),
    ("compilation", "program/programs.py", "prepare"),
    ("training step", "program/programs.py", "train"),
    ("restoring", "program/checkpoints.py", "restore"),
    ("store build", "data/build/", ""),
    ("loading data", "harness/data/", ""),
    ("setting up", "harness/trainer/setup.py", ""),
    ("training loop", "harness/trainer/loop.py", "train"),
    ("start or end of the fit", "harness/trainer/fit.py", ""),
)
STAGES = tuple(stage for stage, *_ in _STAGES)


class Stages:
    """Tells a parent the stage of the process that it forks."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _LENGTH)

    def watch(self) -> None:
        """Begins to record the stage of this process, in the background; called in the child."""
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> str:
        """Returns the stage recorded last; called in any process."""
        return self._shared[:_LENGTH].rstrip(b"\0 ").decode() or "before the first sample"

    def forget(self) -> None:
        """Clears the stage, before another process is watched."""
        self._shared[:_LENGTH] = bytes(_LENGTH)

    def _watch(self) -> None:
        own = threading.get_ident()
        while True:
            frames = [f for thread, f in sys._current_frames().items() if thread != own]
            self._shared[:_LENGTH] = _stage(frames).encode().ljust(_LENGTH)
            del frames  # they would keep their variables alive
            time.sleep(_EVERY_SECONDS)


def _stage(frames: list[FrameType]) -> str:
    places = set()
    for frame in frames:
        inner: FrameType | None = frame
        while inner is not None:
            places.add((inner.f_code.co_filename, inner.f_code.co_name))
            inner = inner.f_back
    for stage, file, function in _STAGES:
        if any(file in name and called.startswith(function) for name, called in places):
            return stage
    return "start or end of the process"
