"""Lets the workers meet before TensorFlow starts, whose runtime waits an hour for a missing worker
and does not name it. So they first connect to the chief, which names missing workers and sends the
addresses of all workers to each.

The chief first sends a random number. Then every message is a line: an HMAC by the job's token, a
space, and JSON. The HMAC covers the number and all messages so far. So nothing is read of a
stranger but its size and its HMAC.
"""

import asyncio
import contextlib
import hmac
import itertools
import json
import secrets
import socket
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, NamedTuple

from harness.base.checks import require
from harness.base.errors import InputError, LostWorkerError
from harness.workers.membership import CHIEF, TOKEN, Membership, address, joined, plain_ip

_RETRY_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 2**18  # maximum size of a line
_HELLO_SECONDS = 5.0  # the longest from a connection to the worker's line, and for last answers
_FEWEST_LETTERS = 16  # minimum length of a token
# Errors of a connection; a timeout, a stranger and a name that no host can have are among them.
_FAILURES = (OSError, UnicodeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
_NUMBER_BYTES = 32  # size of the chief's random number, in hexadecimal digits


class _Talk:
    """A connection whose messages are proved to be by workers of one job."""

    def __init__(self, member: Membership, number: bytes, *streams: Any) -> None:
        """`number` is the random number that the chief has sent."""
        key = f"{member.token} {member.job}".encode(errors="surrogateescape")
        self._said = hmac.new(key, number, "sha256")
        self._reader, self._writer = streams

    def say(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        self._writer.write(self._code(body) + b" " + body + b"\n")

    async def hear(self) -> dict[str, Any]:
        """Returns the other's message; raises a ConnectionError if it is a stranger's."""
        line = await self._reader.readuntil()
        code, _, body = line.rstrip(b"\n").partition(b" ")
        if not hmac.compare_digest(code, self._code(body)):
            raise ConnectionError
        message: dict[str, Any] = json.loads(body)
        return message

    def _code(self, body: bytes) -> bytes:
        self._said.update(body)
        return self._said.hexdigest().encode()


class _Guest(NamedTuple):  # a worker that has come to the chief
    port: int
    reader: asyncio.StreamReader
    ips: tuple[str, str]  # the worker's own IP address, and that by which it reached the chief


def meet(
    member: Membership, hello: Mapping[str, Any], told: Mapping[str, Any], *, wait_seconds: float
) -> tuple[dict[str, Any], Membership, socket.socket]:
    """Waits until all workers are there. `hello` has the facts of this process that must be the
    same in all workers, or `failure`, the reason why it will not train. `told` is the chief's
    message to all others.

    Returns the chief's message; the membership with all addresses; and a socket that holds this
    worker's port until TensorFlow's server has taken it. In all connected workers, raises an
    InputError if one has other facts or has failed, and a LostWorkerError if one is missing.
    """
    require(
        len(member.token) >= _FEWEST_LETTERS,
        f"several workers need a secret that tells them from strangers, of {_FEWEST_LETTERS} "
        f"letters or more; make one, by export {TOKEN}=$(openssl rand -hex 16), and give all "
        "workers the same (srun passes it on, mpirun with -x)",
    )
    hello = {"the list of workers": list(member.hosts), **hello}
    with contextlib.ExitStack() as open_:
        # All workers try their port now, while a port in use can still be told plainly.
        held = open_.enter_context(_bound(member))
        port = held.getsockname()[1]
        if member.is_chief:
            # Two sockets may be bound to a port if at most one of them listens.
            listening = open_.enter_context(_bound(member, port))
            meeting = _as_chief(member, listening, hello, told, wait_seconds)
        else:
            meeting = _as_worker(member, {"port": port, "hello": hello}, wait_seconds)
        answer = _done(meeting)
        if "refusal" in answer:
            raise (LostWorkerError if answer["missing"] else InputError)(answer["refusal"])
        open_.pop_all()
    return answer["told"], replace(member, hosts=tuple(answer["hosts"])), held


def unreachable(hosts: Sequence[str]) -> list[str]:
    """Returns the addresses `name:port` at which no process answers."""
    lost = []
    for host in hosts:
        try:
            socket.create_connection(address(host), timeout=_ANSWER_SECONDS).close()
        except OSError:
            lost.append(host)
    return lost


def difference(
    member: Membership, index: int, facts: Mapping[str, Any], chief: Mapping[str, Any]
) -> str | None:
    """Describes how a worker's facts differ from the chief's; None if they agree."""
    for name, value in chief.items():
        if facts.get(name) != value:
            own, other = (json.dumps(v).strip('"') for v in (value, facts.get(name)))
            return (
                f"{member.name(index)} differs from the chief in {name}: "
                f"{other:.200}, not {own:.200}; all workers need the same"
            )
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
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # strangers may take all open files
    guests: dict[int, _Guest] = {}
    refusals = [f"{member.name(0)}: {hello['failure']}"] if "failure" in hello else []
    all_are_there, answer = asyncio.Event(), loop.create_future()
    visits: set[asyncio.Task[Any]] = set()

    def there() -> set[int]:
        return {index for index, guest in guests.items() if not guest.reader.at_eof()}

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                number = secrets.token_hex(_NUMBER_BYTES // 2).encode()
                writer.write(number)
                talk = _Talk(member, number, reader, writer)
                facts = await talk.hear()
                talk.say({})
            visit = asyncio.current_task()
            assert visit is not None
            visits.add(visit)
            index, theirs = facts["index"], facts["hello"]
            if index in there():
                refusals.append(f"worker {index} was started twice; end one of them")
            if "failure" in theirs:
                refusals.append(f"{member.name(index)}: {theirs['failure']}")
            elif "failure" not in hello and (found := difference(member, index, theirs, hello)):
                refusals.append(found)
            names = (writer.get_extra_info(name)[0] for name in ("peername", "sockname"))
            peer, own = map(plain_ip, names)
            guests[index] = _Guest(facts["port"], reader, (peer, own))
            if len(there()) == member.num_workers - 1:
                all_are_there.set()
            talk.say(await answer)
            await writer.drain()
        except _FAILURES:  # a port scanner, a worker of another job, or one that has gone
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(greet, sock=listening, limit=_MAX_BYTES)
    outcome: dict[str, Any] = {"missing": False}
    try:
        # Also after a refusal: all are to be told.
        await asyncio.wait_for(all_are_there.wait(), wait_seconds)
    except TimeoutError:
        outcome["missing"] = not refusals
        lost = sorted({*range(1, member.num_workers)} - there())
        refusals.append(
            f"{', '.join(map(member.name, lost))} did not answer within {wait_seconds:g} s; start "
            f"what is missing, or check the names, the ports, firewalls and {TOKEN}"
        )
    if refusals:
        outcome["refusal"] = refusals[0]
    else:
        hosts = _hosts(member, listening.getsockname()[1], guests)
        outcome |= {"told": dict(told), "hosts": hosts}
    server.close()
    answer.set_result(outcome)
    if visits:
        await asyncio.wait(visits, timeout=_HELLO_SECONDS)
    return outcome


async def _as_worker(
    member: Membership, facts: Mapping[str, Any], wait_seconds: float
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    for chief in itertools.cycle(member.chief):
        with contextlib.suppress(*_FAILURES), contextlib.ExitStack() as open_:
            async with asyncio.timeout_at(min(loop.time() + _HELLO_SECONDS, deadline)):
                streams = await asyncio.open_connection(*address(chief), limit=_MAX_BYTES)
                open_.callback(streams[1].close)
                talk = _Talk(member, await streams[0].readexactly(_NUMBER_BYTES), *streams)
                talk.say({"index": member.index, **facts})
                await talk.hear()  # it is the chief
            # The chief waits as long for the others, and then says which are missing.
            async with asyncio.timeout_at(deadline + _HELLO_SECONDS):
                return await talk.hear()
        if loop.time() > deadline:
            break
        await asyncio.sleep(_RETRY_SECONDS)
    raise LostWorkerError(
        f"worker 0, the chief ({member.chief[0]}), did not answer within {wait_seconds:g} s; start "
        f"it, or check its address (TF_CONFIG, or {CHIEF}=HOST:PORT), firewalls and {TOKEN}"
    )


def _hosts(member: Membership, port: int, guests: Mapping[int, _Guest]) -> tuple[str, ...]:
    """Returns the addresses of all workers, by which each can reach the others."""
    if all(member.hosts):
        return member.hosts
    # A worker on the chief's host may have come by a loopback address, which no other host reaches.
    own = min(
        (guest.ips[1] for guest in guests.values()), key=lambda ip: ip_address(ip).is_loopback
    )
    others = (
        joined(own if ip_address(guest.ips[0]).is_loopback else guest.ips[0], guest.port)
        for _, guest in sorted(guests.items())
    )
    return joined(own, port), *others


def _bound(member: Membership, port: int | None = None) -> socket.socket:
    """Returns a socket on the given port, else on this worker's, which is any if none is known."""
    known = member.hosts[member.index] or (member.chief[0] if member.is_chief else "")
    port = port or (address(known)[1] if known else 0)
    both = socket.has_dualstack_ipv6()
    bound = socket.socket(socket.AF_INET6 if both else socket.AF_INET)
    if both:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("", port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"{member.name(member.index)} cannot use port {port} ({error.strerror}); end what uses "
            f"it, or choose another, by TF_CONFIG or {CHIEF}=HOST:PORT"
        ) from error
    return bound
