"""Lets workers meet before TensorFlow starts, on the chief's own port, which is free until then.

TensorFlow's runtime waits for an hour for a missing worker, and does not say which. So the workers
first connect to the chief by plain sockets, and the chief names missing workers.
"""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any

from harness.base.errors import InputError, LostWorkerError
from harness.workers.membership import Membership

_RETRY_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 2**20
"""Limit of a message's size."""
_HELLO_SECONDS = 5.0
"""Seconds for a connected process to say hello: a silent stranger must not hold up the others."""


def meet(
    member: Membership, hello: Mapping[str, Any], told: Mapping[str, Any], *, wait_seconds: float
) -> dict[str, Any]:
    """Waits until all workers are there.

    Args:
        member: this process's place in a cluster of several workers.
        hello: facts of this process that must be the same in all workers.
        told: the chief's message to all others, once they are there.
        wait_seconds: how long to wait for missing workers.

    Returns:
        The chief's message.

    Raises:
        InputError: in all workers that are there, if one has other facts.
        LostWorkerError: in all workers that are there, if one is missing.
    """
    with ExitStack() as open_:
        # All workers try their port now, while a port in use can still be told plainly.
        own = _listening(member)
        if member.is_chief:
            return _as_chief(member, open_.enter_context(closing(own)), hello, told, wait_seconds)
        own.close()  # the port is free: TensorFlow takes it
        return _as_worker(member, hello, wait_seconds)


def unreachable(hosts: Sequence[str]) -> list[str]:
    """Returns the addresses `name:port` at which no process answers."""
    lost = []
    for host in hosts:
        try:
            socket.create_connection(_address(host), timeout=_ANSWER_SECONDS).close()
        except OSError:
            lost.append(host)
    return lost


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that no process uses now."""
    with ExitStack() as open_:
        sockets = [open_.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _as_chief(
    member: Membership,
    own: socket.socket,
    hello: Mapping[str, Any],
    told: Mapping[str, Any],
    wait_seconds: float,
) -> dict[str, Any]:
    deadline = time.monotonic() + wait_seconds
    found: dict[int, socket.socket] = {}
    with ExitStack() as open_:
        refusal: str | None = None
        missing = False
        while len(found) < member.num_workers - 1:  # also after a refusal: all are to be told
            own.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = own.accept()
            except TimeoutError:
                missing = refusal is None
                refusal = refusal or _missing(member, found.keys(), wait_seconds)
                break
            open_.enter_context(closing(connection))
            connection.settimeout(min(wait_seconds, _HELLO_SECONDS))
            facts = _received(connection)
            if facts is None or facts.get("cluster") != list(member.hosts):
                continue  # a port scanner, or a worker of another job
            # A worker that was started anew meanwhile comes again: its last connection counts.
            index = int(facts["index"])
            found[index] = connection
            refusal = refusal or _difference(member, index, facts["hello"], hello)
        refused = {"refusal": refusal, "missing": missing}
        answer = refused if refusal else {"told": dict(told)}
        for connection in found.values():
            _send(connection, answer)
    if refusal:
        raise LostWorkerError(refusal) if missing else InputError(refusal)
    return dict(told)


def _as_worker(member: Membership, hello: Mapping[str, Any], wait_seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + wait_seconds
    chief = member.hosts[0]
    while True:
        answer = None
        try:
            with closing(socket.create_connection(_address(chief), timeout=5)) as connection:
                facts = {"cluster": member.hosts, "index": member.index, "hello": hello}
                _send(connection, facts)
                # The chief waits as long for the others, and then says which are missing.
                connection.settimeout(max(1.0, deadline - time.monotonic()) + 10)
                answer = _received(connection)
        except OSError:
            pass
        if answer is not None:
            break
        if time.monotonic() > deadline:
            raise LostWorkerError(
                f"worker 0, the chief ({chief}), did not answer within {wait_seconds:g} s; start "
                "it, or check the name, the port and firewalls"
            )
        time.sleep(_RETRY_SECONDS)
    if "refusal" in answer:
        raise (LostWorkerError if answer.get("missing") else InputError)(answer["refusal"])
    told: dict[str, Any] = answer["told"]
    return told


def difference(member: Membership, all_facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Describes how the first worker that differs from the chief does so; None if all agree."""
    for index, facts in enumerate(all_facts):
        if found := _difference(member, index, facts, all_facts[0]):
            return found
    return None


def _difference(
    member: Membership, index: int, facts: Mapping[str, Any], chief: Mapping[str, Any]
) -> str | None:
    for name, value in chief.items():
        if facts.get(name) != value:
            own, other = (json.dumps(v).strip('"') for v in (value, facts.get(name)))
            return (
                f"worker {index} ({member.hosts[index]}) differs from the chief in {name}: "
                f"{other:.200}, not {own:.200}; all workers need the same"
            )
    return None


def _missing(member: Membership, found: Any, wait_seconds: float) -> str:
    missing = [
        f"worker {index} ({host})"
        for index, host in enumerate(member.hosts)
        if index and index not in found
    ]
    return (
        f"{', '.join(missing)} did not answer within {wait_seconds:g} s; start what is missing, "
        "or check the names, the ports and firewalls"
    )


def _listening(member: Membership) -> socket.socket:
    port = _address(member.hosts[member.index])[1]
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("", port))
        listening.listen(member.num_workers)
    except OSError as error:
        listening.close()
        raise InputError(
            f"worker {member.index} ({member.hosts[member.index]}) cannot use port {port} "
            f"({error.strerror}); end what uses it, or choose another"
        ) from error
    return listening


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return name.strip("[]"), int(port)


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    with suppress(OSError):  # TensorFlow's start, or the others, will miss a lost worker
        connection.sendall(json.dumps(message).encode() + b"\n")


def _received(connection: socket.socket) -> dict[str, Any] | None:
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < _MAX_BYTES:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        message = json.loads(data)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
