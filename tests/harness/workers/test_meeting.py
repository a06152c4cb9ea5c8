"""The meeting of workers, for which threads of this process stand, with real sockets."""

import contextlib
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.base.errors import InputError, LostWorkerError
from harness.workers import meeting
from harness.workers.meeting import difference, free_ports, meet, unreachable
from harness.workers.membership import Membership

HELLO = {"version of harness": "1.0"}


def hosts(count: int) -> tuple[str, ...]:
    return tuple(f"localhost:{port}" for port in free_ports(count))


def outcome(
    index: int, names: tuple[str, ...], hello: Mapping[str, Any], told: Any, wait: float
) -> Any:
    try:
        return meet(Membership(hosts=names, index=index), hello, told, wait_seconds=wait)
    except (InputError, LostWorkerError) as error:
        return f"lost: {error}" if isinstance(error, LostWorkerError) else str(error)


def outcomes(*hellos: Mapping[str, Any], wait: float = 20, absent: int | None = None) -> list[Any]:
    names = hosts(len(hellos))
    with ThreadPoolExecutor(len(hellos)) as pool:
        futures = [
            pool.submit(outcome, index, names, hello, {"value": index}, wait)
            for index, hello in enumerate(hellos)
            if index != absent
        ]
        return [future.result() for future in futures]


def test_all_get_what_the_chief_tells() -> None:
    assert outcomes(HELLO, HELLO, HELLO) == [{"value": 0}] * 3


def test_a_worker_of_another_version_is_named_by_all() -> None:
    chief, *others = outcomes(HELLO, HELLO, {"version of harness": "1.1"})
    assert "worker 2 (localhost:" in chief
    assert "differs from the chief in version of harness: 1.1, not 1.0" in chief
    assert others == [chief, chief]


def test_a_worker_that_does_not_come_is_named() -> None:
    messages = outcomes(HELLO, HELLO, HELLO, wait=1, absent=1)
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("lost: worker 1 (localhost:")
        assert "did not answer within 1 s" in message


def test_a_chief_that_does_not_come_is_named() -> None:
    (message,) = outcomes(HELLO, HELLO, wait=0.5, absent=0)
    assert message.startswith("lost: worker 0, the chief (localhost:")


def test_a_port_that_is_taken() -> None:
    names = hosts(2)
    with socket.socket() as taken:
        taken.bind(("", int(names[1].rpartition(":")[2])))
        taken.listen()
        message = outcome(1, names, HELLO, {}, 1)
        assert message.startswith(f"worker 1 ({names[1]}) cannot use port")
        assert "end what uses it, or choose another" in message
        assert unreachable(names) == [names[0]]


def test_a_stranger_at_the_chiefs_port_is_no_worker() -> None:
    names = hosts(2)
    with ThreadPoolExecutor(2) as pool:
        chief = pool.submit(outcome, 0, names, HELLO, {"value": 5}, 20)
        for message in (b"GET / HTTP/1.1\r\n\r\n", b'{"cluster": ["x:1"]}\n', b""):
            while True:
                try:
                    address = ("localhost", int(names[0].rpartition(":")[2]))
                    with socket.create_connection(address, timeout=5) as stranger:
                        stranger.sendall(message)
                    break
                except ConnectionRefusedError:
                    assert not chief.done()
        assert outcome(1, names, HELLO, {}, 20) == {"value": 5}
        assert chief.result() == {"value": 5}


def test_a_stranger_that_says_nothing_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "_HELLO_SECONDS", 1.0)
    names = hosts(2)
    address = ("localhost", int(names[0].rpartition(":")[2]))
    with ThreadPoolExecutor(2) as pool:
        chief = pool.submit(outcome, 0, names, HELLO, {"value": 5}, 30)
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                stranger = socket.create_connection(address, timeout=5)
                break
        with stranger:
            start = time.monotonic()
            assert outcome(1, names, HELLO, {}, 30) == {"value": 5}
            assert time.monotonic() - start < 20  # of the 30 that the chief waits
        assert chief.result() == {"value": 5}


def test_what_differs_is_said_with_both_values() -> None:
    member = Membership(hosts=("a:1", "b:2"), index=0)
    same = {"data": ["x"], "setting seed": 3}
    assert difference(member, [same, dict(same)]) is None
    found = difference(member, [same, {**same, "setting seed": 4}])
    assert found == (
        "worker 1 (b:2) differs from the chief in setting seed: 4, not 3; all workers need the same"
    )
