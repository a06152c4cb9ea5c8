"""Loads a data set in a process of its own, beside whatever the caller does meanwhile.

Reading 50,000 pickled rows takes a second of Python; so does importing TensorFlow, and one
interpreter does one after the other.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.child_process import die_with_parent, take_standard_output
from harness.config import DataConfig
from harness.data.sources import Dataset, find_configured, load_configured
from harness.errors import InputError

_MAX_FILE_BYTES = 2**26
_MAX_SYNTHETIC_ROWS = 200_000
"""Beyond these, the second that is saved is little beside the loading, and much memory is taken
twice while the data set is handed over."""


@contextmanager
def loading_beside(config: DataConfig) -> Iterator[Callable[[], Dataset]]:
    """Begins to load what `config` names; what it gives waits for it. The process ends with it.

    A folder of this harness, which is mapped into memory and not read, is loaded here and now, and
    so is what is large.

    Raises:
        InputError: there is no such data, or an option does not apply to it. What is wrong inside
            the data is raised by the function that waits, unless it is loaded here and now. So is a
            RuntimeError, where the process ended in another way; it has then said why.
    """
    if not _is_worth_it(find_configured(config), config):
        dataset = load_configured(config)
        yield lambda: dataset
        return
    # With this one's path: `-m` would look for modules in the current folder first. In a session of
    # its own, for Ctrl-C reaches all processes of a terminal's foreground; this one decides what
    # comes of it.
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdin is not None
            pickle.dump(config, process.stdin)
            process.stdin.close()
            yield lambda: _received(process, config)
        finally:
            process.kill()


def _is_worth_it(path: Path | None, config: DataConfig) -> bool:
    if path is None:
        return config.synthetic.synthetic_rows <= _MAX_SYNTHETIC_ROWS
    return path.is_file() and path.stat().st_size <= _MAX_FILE_BYTES


def _received(process: subprocess.Popen[bytes], config: DataConfig) -> Dataset:
    assert process.stdout is not None
    try:
        loaded = pickle.load(process.stdout)  # what this module's own `main` wrote
    except (EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"the process that loads {config.data} ended with exit code {process.wait()}"
        ) from error
    if isinstance(loaded, InputError):
        raise loaded
    return loaded


def main() -> None:
    """The process: settings come in, the data set or what is wrong with it goes out."""
    die_with_parent()
    answers = take_standard_output()
    config: DataConfig = pickle.load(sys.stdin.buffer)
    try:
        loaded: Dataset | InputError = load_configured(config)
    except InputError as error:
        loaded = error
    pickle.dump(loaded, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()
