"""`python -m harness.cli.apart`: `harness launch` in a network of its own.

It enters the network before anything that starts a thread is imported: but for root, the system
moves only processes of one thread.
"""

import sys

from harness.workers.launcher import enter_own_network


def main() -> None:
    try:
        enter_own_network()
    except OSError as error:
        print(
            "error: the system allows no network of its own for the workers "
            f"({error.strerror}), and whoever reached TensorFlow's ports on this one could act as "
            "you; use one process (--replicas instead of launch), or allow it by --open-ports",
            file=sys.stderr,
        )
        sys.exit(2)
    from harness.cli.main import entry_point

    sys.argv[1:] = ["launch", "--open-ports", *sys.argv[1:]]
    entry_point()


if __name__ == "__main__":
    main()
