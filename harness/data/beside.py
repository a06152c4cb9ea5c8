"""Loads a data set in a process of its own, beside whatever the caller does meanwhile.

Reading 50,000 pickled rows takes a second of Python; so does importing TensorFlow, and one
interpreter does one after the other.
"""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.config import DataConfig
from harness.data.sources import Dataset, find_configured, load_configured
from harness.errors import InputError


@contextmanager
def loading_beside(config: DataConfig) -> Iterator[Callable[[], Dataset]]:
    """Begins to load what `config` names; what it gives waits for it. The process ends with it.

    A folder of this harness is loaded here and now: it is mapped into memory, not read.

    Raises:
        InputError: there is no such data, or an option does not apply to it. What is wrong inside
            the data is raised by the function that waits. So is a RuntimeError, where the process
            ended in another way; it has then said why.
    """
    path = find_configured(config)
    if path is not None and path.is_dir():
        dataset = load_configured(config)
        yield lambda: dataset
        return
    # In a session of its own, for Ctrl-C reaches all processes of a terminal's foreground; this
    # one decides what comes of it.
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
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
    config: DataConfig = pickle.load(sys.stdin.buffer)
    try:
        loaded: Dataset | InputError = load_configured(config)
    except InputError as error:
        loaded = error
    pickle.dump(loaded, sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    main()
