"""Strangers at the meeting of workers: hostile messages, and connections that are slow or silent.

    python -m benchmarks.cluster.strangers [MESSAGES [SLOW]]

A chief and two workers meet while they come. Exit code 1 if the meeting takes longer than one
without strangers and `_MOST_SECONDS`, counts a stranger, or ends with anything but its result.
"""

import contextlib
import json
import random
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness.workers.meeting import meet
from harness.workers.membership import Membership, address

_MOST_SECONDS = 10.0


def _message(rng: random.Random, hosts: tuple[str, ...]) -> bytes:
    """Returns a message that somebody without the token can make."""
    index: Any = rng.choice([0, 1, 99, -1, "x", None, 1e400, True, [], {}])
    facts: Any = {"cluster": hosts, "index": index, "port": 1, "hello": rng.choice([{}, [], None])}
    body = json.dumps(facts).encode()
    return rng.choice(
        [
            b"",
            b"\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"[" * 200_000 + b"\n",
            b"{" * rng.randrange(1, 100) + b"\n",
            rng.randbytes(rng.randrange(1, 5000)) + b"\n",
            b"0" * 400_000,
            b"0" * 64 + b" " + body + b"\n",
            rng.randbytes(32).hex().encode() + b" " + body + b"\n",
            b"0" * 64 + b" " + b"[" * 100_000 + b"\n",
            "\u00fc".encode() * 64 + b" {}\n",
            body + b"\n",
            b"9" * 10_000 + b"\n",
        ]
    )


class Strangers:
    """Strangers who come to the chief's address."""

    def __init__(self, chief: str, *, messages: int, slow: int, seed: int = 0) -> None:
        self._chief = address(chief)
        self._messages, self._slow, self._rng = messages, slow, random.Random(seed)
        self._hosts = (chief, "localhost:1", "localhost:2")
        self._leaving = threading.Event()
        self._trickling: list[threading.Thread] = []

    def come(self) -> None:
        """Sends all messages, then connects all the slow and silent."""
        for _ in range(self._messages):
            with contextlib.suppress(OSError), self._connected() as connection:
                connection.settimeout(0.01)
                connection.sendall(_message(self._rng, self._hosts))
                connection.recv(100)
        for number in range(self._slow):
            connection = self._connected()
            thread = threading.Thread(target=self._trickle, args=[connection, number % 2 == 0])
            thread.start()
            self._trickling.append(thread)

    def leave(self) -> None:
        self._leaving.set()
        for thread in self._trickling:
            thread.join()

    def _connected(self) -> socket.socket:
        while True:
            try:
                return socket.create_connection(self._chief, timeout=5)
            except OSError:
                time.sleep(0.05)
                if self._leaving.is_set():
                    return socket.socket()

    def _trickle(self, connection: socket.socket, is_silent: bool) -> None:
        """Keeps a connection, and sends a byte a second unless it is to be silent."""
        with connection, contextlib.suppress(OSError):
            while not self._leaving.wait(1):
                if not is_silent:
                    connection.sendall(b"0")


def main(arguments: list[str]) -> int:
    given = list(map(int, arguments))
    messages, slow = [*given, *(2000, 200)[len(given) :]]
    with socket.create_server(("", 0)) as free:
        chief = f"localhost:{free.getsockname()[1]}"
    member = Membership(hosts=("",) * 3, chief=(chief,), token="a secret of these three")

    def worker(index: int) -> float:
        start = time.monotonic()
        place = Membership(**{**vars(member), "index": index})
        told, met, held = meet(place, {"version": 1}, {"value": 5}, wait_seconds=300)
        held.close()
        assert told == {"value": 5}, told
        assert len(set(met.hosts)) == 3, met
        return time.monotonic() - start

    strangers = Strangers(chief, messages=messages, slow=slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(worker, 0)
        strangers.come()
        others = [pool.submit(worker, index) for index in (1, 2)]
        seconds = max(other.result() for other in others)
        first.result()
    strangers.leave()
    print(f"{messages:,} messages and {slow} slow strangers: the workers met in {seconds:.2f} s")
    return int(seconds > _MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
