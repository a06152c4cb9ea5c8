"""Lets the workers meet before TensorFlow starts, and learn each other's addresses.

TensorFlow's runtime waits an hour for a missing worker and does not name it. So the workers first
connect to the chief, which names missing workers and sends the addresses of all workers to each.

Every message is a line: an HMAC with the job's token as its key, a space, and JSON. The first line
is a random number by the chief. The HMAC of the worker's line covers that number, and the HMACs of
the chief's further lines cover the worker's line. JSON is parsed only if the HMAC is right, so of
other senders only the HMAC is read.
"""

import asyncio
import contextlib
import hmac
import itertools
import json
import secrets
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

from harness.base.checks import require
from harness.base.errors import InputError, LostWorkerError
from harness.workers.membership import TOKEN, Membership, address, joined, plain_ip

_RETRY_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 2**18
"""Maximum size of a line."""
_HELLO_SECONDS = 5.0
"""Maximum seconds from a connection to the worker's line, and for the last answers."""
_FEWEST_LETTERS = 16
"""Minimum length of a token."""
_FAILURES = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
"""Errors of a connection; OSError includes timeouts."""


class Met(NamedTuple):
    """The outcome of a meeting."""

    told: dict[str, Any]
    """The chief's message."""
    hosts: tuple[str, ...]
    """Addresses of all workers, the chief first."""
    held: socket.socket
    """Socket that reserves this worker's port until TensorFlow's server uses it."""


@dataclass(frozen=True)
class _Guest:
    """A worker that has connected to the chief."""

    facts: Mapping[str, Any]
    line: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def ips(self) -> tuple[str, str]:
        """Returns the worker's IP address, and the chief's address to which it connected."""
        names = (self.writer.get_extra_info(name)[0] for name in ("peername", "sockname"))
        peer, own = map(plain_ip, names)
        return peer, own


def meet(
    member: Membership, hello: Mapping[str, Any], told: Mapping[str, Any], *, wait_seconds: float
) -> Met:
    """Waits until all workers have connected to the chief.

    Args:
        member: this process's place in a cluster of several workers.
        hello: facts of this process that must be the same in all workers; or `failure`, the reason
            why it will not train.
        told: the chief's message, which it sends to all others once they have connected.
        wait_seconds: how long to wait for missing workers.

    Raises:
        InputError: in all connected workers, if one has other facts or has failed.
        LostWorkerError: in all connected workers, if one is missing.
    """
    require(
        len(member.token) >= _FEWEST_LETTERS,
        f"several workers need a secret that tells them from strangers: set {TOKEN} to the same "
        f"{_FEWEST_LETTERS} or more random letters in all of them, as docs/slurm.sh does",
    )
    with contextlib.ExitStack() as open_:
        # All workers try their port now, while a port in use can still be told plainly.
        held = open_.enter_context(_bound(member))
        port = held.getsockname()[1]
        if member.is_chief:
            # Two sockets may be bound to a port if at most one of them listens.
            listening = open_.enter_context(_bound(member, port))
            meeting = _as_chief(member, listening, hello, told, wait_seconds)
        else:
            meeting = _as_worker(member, port, hello, wait_seconds)
        answer, hosts = _done(meeting)
        open_.pop_all()
    return Met(answer, hosts, held)


def unreachable(hosts: Sequence[str]) -> list[str]:
    """Returns the addresses `name:port` at which no process answers."""
    lost = []
    for host in hosts:
        try:
            socket.create_connection(address(host) or ("", 0), timeout=_ANSWER_SECONDS).close()
        except OSError:
            lost.append(host)
    return lost


def difference(member: Membership, all_facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Describes the first difference of a worker from the chief; None if all agree."""
    for index, facts in enumerate(all_facts):
        if found := _difference(member, index, facts, all_facts[0]):
            return found
    return None


def _done(meeting: Coroutine[Any, Any, Any]) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(meeting)
    with ThreadPoolExecutor(1) as other:  # a notebook's thread runs a loop already
        return other.submit(asyncio.run, meeting).result()


async def _as_chief(
    member: Membership,
    listening: socket.socket,
    hello: Mapping[str, Any],
    told: Mapping[str, Any],
    wait_seconds: float,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    found: dict[int, _Guest] = {}
    refusals = [f"{member.name(0)}: {hello['failure']}"] if "failure" in hello else []
    all_are_there = asyncio.Event()
    connected: set[asyncio.StreamWriter] = set()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(writer)
        guest = await _guest(member, reader, writer)
        if guest is None:  # a port scanner, or a worker of another job
            connected.discard(writer)
            writer.transport.abort()
            return
        index = guest.facts["index"]
        if index in found and not found[index].reader.at_eof():
            refusals.append(f"worker {index} was started twice; end one of them")
        found[index] = guest
        refusals.extend(filter(None, [_refusal(member, guest.facts, hello)]))
        if len(found) == member.num_workers - 1:
            all_are_there.set()

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # no more open files
    server = await asyncio.start_server(greet, sock=listening, limit=_MAX_BYTES)
    missing = False
    try:
        # Also after a refusal: all are to be told.
        await asyncio.wait_for(all_are_there.wait(), wait_seconds)
    except TimeoutError:
        missing = not refusals
        refusals.append(_missing(member, found, wait_seconds))
    hosts = _hosts(member, listening.getsockname()[1], found)
    server.close()
    answer: dict[str, Any] = {"told": dict(told), "hosts": hosts}
    if refusals:
        answer = {"refusal": refusals[0], "missing": missing}
    await _tell(member, found.values(), answer)
    for writer in connected:
        writer.transport.abort()
    await asyncio.sleep(0)  # they close now
    if refusals:
        raise LostWorkerError(refusals[0]) if missing else InputError(refusals[0])
    return dict(told), hosts


async def _guest(
    member: Membership, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> _Guest | None:
    """Returns the worker that has connected; None if it is not a worker of this job."""
    number = secrets.token_hex(16).encode() + b"\n"
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            writer.write(number)
            line = await reader.readuntil()
            facts = _read(member, number, line)
            if facts is None or facts.get("index") not in range(1, member.num_workers):
                return None
            writer.write(_sealed(member, line, {"wait": True}))
            await writer.drain()
    except _FAILURES:
        return None
    return _Guest(facts, line, reader, writer)


async def _tell(member: Membership, guests: Iterable[_Guest], answer: Mapping[str, Any]) -> None:
    async def tell(guest: _Guest) -> None:
        with contextlib.suppress(*_FAILURES):  # TensorFlow's start will miss a lost worker
            guest.writer.write(_sealed(member, guest.line, answer))
            await guest.writer.drain()
            guest.writer.close()
            await guest.writer.wait_closed()

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*map(tell, guests)), _HELLO_SECONDS)


async def _as_worker(
    member: Membership, port: int, hello: Mapping[str, Any], wait_seconds: float
) -> tuple[dict[str, Any], tuple[str, ...]]:
    facts = {"index": member.index, "port": port, "cluster": member.hosts, "hello": hello}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    chiefs = itertools.cycle(member.chief)
    while True:
        answer = await _asked(member, next(chiefs), facts, deadline)
        if answer is not None:
            break
        if loop.time() > deadline:
            raise LostWorkerError(
                f"worker 0, the chief ({member.chief[0]}), did not answer within "
                f"{wait_seconds:g} s; start it, or check the name, the port, firewalls and "
                f"{TOKEN}; HARNESS_CLUSTER_CHIEF=HOST:PORT says where it is"
            )
        await asyncio.sleep(_RETRY_SECONDS)
    if "refusal" in answer:
        raise (LostWorkerError if answer["missing"] else InputError)(answer["refusal"])
    return answer["told"], tuple(answer["hosts"])


async def _asked(
    member: Membership, chief: str, facts: Mapping[str, Any], deadline: float
) -> dict[str, Any] | None:
    """Returns the chief's answer to a worker's facts; None if the chief does not answer."""
    host, port = address(chief) or ("", 0)
    writer = None
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, limit=_MAX_BYTES)
            line = _sealed(member, await reader.readuntil(), facts)
            writer.write(line)
            if _read(member, line, await reader.readuntil()) is None:
                return None
        # The chief waits as long for the others, and then says which are missing.
        async with asyncio.timeout_at(deadline + _HELLO_SECONDS):
            return _read(member, line, await reader.readuntil())
    except _FAILURES:
        return None
    finally:
        if writer is not None:
            writer.close()


def _refusal(member: Membership, facts: Mapping[str, Any], hello: Mapping[str, Any]) -> str | None:
    index, theirs = facts["index"], facts.get("hello") or {}
    if "failure" in theirs:
        return f"{member.name(index)}: {theirs['failure']}"
    own = {"the list of workers": list(member.hosts)}
    return _difference(
        member, index, {"the list of workers": facts.get("cluster"), **theirs}, {**own, **hello}
    )


def _difference(
    member: Membership, index: int, facts: Mapping[str, Any], chief: Mapping[str, Any]
) -> str | None:
    for name, value in chief.items():
        if facts.get(name) != value:
            own, other = (json.dumps(v).strip('"') for v in (value, facts.get(name)))
            return (
                f"{member.name(index)} differs from the chief in {name}: "
                f"{other:.200}, not {own:.200}; all workers need the same"
            )
    return None


def _missing(member: Membership, found: Iterable[int], wait_seconds: float) -> str:
    missing = sorted(set(range(1, member.num_workers)) - set(found))
    return (
        f"{', '.join(map(member.name, missing))} did not answer within {wait_seconds:g} s; start "
        f"what is missing, or check the names, the ports, firewalls and {TOKEN}"
    )


def _hosts(member: Membership, port: int, found: Mapping[int, _Guest]) -> tuple[str, ...]:
    """Returns the addresses at which the workers can reach each other."""
    if all(member.hosts):
        return member.hosts
    ips = {index: guest.ips() for index, guest in found.items()}
    # A worker on the chief's host may have come by a loopback address, which no other host reaches.
    chief = next((own for _, own in ips.values() if not ip_address(own).is_loopback), None)
    chief = chief or next((own for _, own in ips.values()), "127.0.0.1")
    names = {i: chief if ip_address(peer).is_loopback else peer for i, (peer, _) in ips.items()}
    ports = {index: guest.facts["port"] for index, guest in found.items()}
    return tuple(joined(names.get(i, chief), ports.get(i, port)) for i in range(member.num_workers))


def _bound(member: Membership, port: int | None = None) -> socket.socket:
    """Returns a socket bound to the given port; without one, to the first free port of those in
    this worker's address, or to any free port if it has none."""
    own = member.hosts[member.index]
    candidates = [own] if own else member.chief if member.is_chief else []
    ports = sorted({found[1] for found in map(address, candidates) if found}) or [0]
    for tried in ports if port is None else [port]:
        both = socket.has_dualstack_ipv6()
        bound = socket.socket(socket.AF_INET6 if both else socket.AF_INET)
        if both:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("", tried))
        except OSError as error:
            bound.close()
            reason = error.strerror
        else:
            return bound
    raise InputError(
        f"{member.name(member.index)} cannot use port {' or '.join(map(str, ports))} ({reason}); "
        "end what uses it, or choose another, as by HARNESS_CLUSTER_CHIEF=HOST:PORT"
    )


def _sealed(member: Membership, context: bytes, message: Mapping[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return _code(member, context + body) + b" " + body + b"\n"


def _read(member: Membership, context: bytes, line: bytes) -> dict[str, Any] | None:
    """Returns the message in a line; None if its sender is not a worker of this job."""
    code, _, body = line.rstrip(b"\n").partition(b" ")
    if not hmac.compare_digest(code, _code(member, context + body)):
        return None
    message = json.loads(body)
    return message if isinstance(message, dict) else None


def _code(member: Membership, content: bytes) -> bytes:
    key = f"{member.token} {member.job}".encode(errors="surrogateescape")
    return hmac.new(key, content, "sha256").hexdigest().encode()
