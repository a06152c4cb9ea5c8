"""The meeting of workers, for which threads of this process stand, with real sockets."""

import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import tensorflow as tf

from benchmarks.cluster.strangers import Strangers
from harness.base.errors import InputError, LostWorkerError
from harness.workers import meeting
from harness.workers.cluster import ALONE, Cluster
from harness.workers.meeting import meet, unreachable
from harness.workers.membership import Membership

HELLO = {"version of harness": "1.0"}
TOKEN = "0123456789abcdef"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def known(count: int) -> Membership:
    """Returns a cluster as TF_CONFIG describes it."""
    hosts = tuple(f"localhost:{port}" for port in free_ports(count))
    return Membership(hosts=hosts, chief=hosts[:1], token=TOKEN)


def unknown(count: int) -> Membership:
    """Returns a cluster as SLURM describes it: one of two names is the chief's."""
    (port,) = free_ports(1)
    chief = f"no-such-host:{port}", f"localhost:{port}"
    return Membership(hosts=("",) * count, chief=chief, token=TOKEN, job="7.0")


def outcome(
    index: int, member: Membership, hello: Mapping[str, Any], told: Any, wait: float
) -> Any:
    place = Membership(**{**vars(member), "index": index})
    try:
        said, met, held = meet(place, hello, told, wait_seconds=wait)
    except (InputError, LostWorkerError) as error:
        return f"lost: {error}" if isinstance(error, LostWorkerError) else str(error)
    held.close()
    return said | {"hosts": met.hosts}


def outcomes(
    *hellos: Mapping[str, Any],
    wait: float = 20,
    absent: int | None = None,
    member: Membership | None = None,
) -> list[Any]:
    member = member or known(len(hellos))
    with ThreadPoolExecutor(len(hellos)) as pool:
        futures = [
            pool.submit(outcome, index, member, hello, {"value": index}, wait)
            for index, hello in enumerate(hellos)
            if index != absent
        ]
        return [future.result() for future in futures]


def test_all_get_what_the_chief_tells() -> None:
    member = known(3)
    assert outcomes(*[HELLO] * 3, member=member) == [{"value": 0, "hosts": member.hosts}] * 3


def test_the_chief_hands_out_the_addresses_that_it_finds() -> None:
    first, *others = outcomes(*[HELLO] * 3, member=unknown(3))
    assert others == [first, first]
    assert len(set(first["hosts"])) == 3
    assert {host.rpartition(":")[0] for host in first["hosts"]} <= {"127.0.0.1", "[::1]"}


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # held for a server
def test_a_worker_meets_the_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CLUSTER_WAIT", "10")
    member = unknown(2)
    clusters = [Cluster(replace(member, index=index)) for index in range(2)]
    with ThreadPoolExecutor(2) as pool:
        told = pool.map(lambda cluster: cluster.from_chief(lambda: "the chief's"), clusters)
        assert list(told) == ["the chief's"] * 2
    assert [cluster.on_this_host for cluster in clusters] == [(0, 2), (1, 2)]


def test_a_worker_that_is_lost_is_named() -> None:
    cluster = Cluster(known(2))
    with pytest.raises(tf.errors.UnavailableError), cluster.watched():
        raise tf.errors.UnavailableError(None, None, "of another server")
    cluster._has_started = True  # as if TensorFlow's runtime had
    lost = r"^worker 1 \(localhost:\d+\) ended .* \(TensorFlow: gone\)"
    with pytest.raises(LostWorkerError, match=lost), cluster.watched():
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: gone\nmore")
    with pytest.raises(tf.errors.InternalError), cluster.watched():
        raise tf.errors.InternalError(None, None, "of XLA")
    assert ALONE.told({"value": [1]}) == [{"value": [1]}]


def test_a_worker_of_another_version_is_named_by_all() -> None:
    chief, *others = outcomes(HELLO, HELLO, {"version of harness": "1.1"})
    assert "worker 2 (localhost:" in chief
    assert "differs from the chief in version of harness: 1.1, not 1.0" in chief
    assert others == [chief, chief]


@pytest.mark.parametrize("index", [0, 1])
def test_all_end_with_the_message_of_a_worker_that_failed(index: int) -> None:
    hellos: list[Mapping[str, Any]] = [HELLO] * 3
    hellos[index] = {"failure": "no file x; name another"}
    chief, *others = outcomes(*hellos, member=unknown(3))
    assert chief == f"worker {index}: no file x; name another"
    assert others == [chief, chief]


def test_a_worker_that_does_not_come_is_named() -> None:
    messages = outcomes(HELLO, HELLO, HELLO, wait=1, absent=1)
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("lost: worker 1 (localhost:")
        assert "did not answer within 1 s" in message


def test_a_chief_by_a_name_that_no_host_can_have_does_not_answer() -> None:
    for name in ("a..b", "h" * 64):  # as of SLURM's variables
        member = replace(unknown(2), chief=(f"{name}:9",))
        assert f"the chief ({name}:9), did not answer" in outcome(1, member, HELLO, {}, 0.2)


def test_a_worker_that_came_and_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_HELLO_SECONDS", 0.5)
    member = known(3)
    with ThreadPoolExecutor(3) as pool:
        chief = pool.submit(outcome, 0, member, HELLO, {}, 2)
        assert "did not answer" in outcome(1, member, HELLO, {}, 0.2)
        assert "lost: worker 1 (localhost:" in outcome(2, member, HELLO, {}, 9)
        assert "worker 2" not in chief.result()


def test_a_worker_with_a_longer_list_is_named() -> None:
    member = known(2)
    longer = replace(member, hosts=(*member.hosts, "localhost:9"))
    with ThreadPoolExecutor(2) as pool:
        chief = pool.submit(outcome, 0, member, HELLO, {}, 20)
        message = outcome(1, longer, HELLO, {}, 20)
        assert message == chief.result()
    assert "differs from the chief in the list of workers" in message


def test_what_one_worker_signs_is_no_answer_to_another() -> None:
    """A process at the chief's port asks for it by what should be a random number."""
    member = known(3)
    port = int(member.hosts[0].rpartition(":")[2])
    with ThreadPoolExecutor(2) as pool:
        with socket.create_server(("", port)) as false:
            first = pool.submit(outcome, 1, member, HELLO, {}, 0.5)
            to_first, _ = false.accept()
            to_first.sendall(b"0" * 32 + b"\n")
            line = to_first.recv(2**16)
            second = pool.submit(outcome, 2, member, HELLO, {}, 0.5)
            to_second, _ = false.accept()
            to_second.sendall(line)
            to_first.sendall(2 * to_second.recv(2**16))
        for connection in (to_first, to_second):
            connection.close()
        for worker in (first, second):
            assert "did not answer within 0.5 s" in worker.result()


def test_a_chief_that_does_not_come_is_named() -> None:
    (message,) = outcomes(HELLO, HELLO, wait=0.5, absent=0)
    assert message.startswith("lost: worker 0, the chief (localhost:")


def test_a_port_that_is_taken() -> None:
    member = known(2)
    with socket.create_server(("", int(member.hosts[1].rpartition(":")[2]))):
        message = outcome(1, member, HELLO, {}, 1)
        assert message.startswith(f"worker 1 ({member.hosts[1]}) cannot use port")
        assert unreachable(member.hosts) == [member.hosts[0]]


def test_a_cluster_without_a_secret_is_refused() -> None:
    member = Membership(hosts=("localhost:1", "localhost:2"), chief=("localhost:1",), token="short")
    message = outcome(0, member, HELLO, {}, 1)
    assert message.startswith("several workers need a secret")


def test_strangers_cost_the_meeting_nothing() -> None:
    """Among them are workers of another job with the same token."""
    member = known(2)
    other = Membership(**{**vars(member), "job": "8.0", "index": 1})
    strangers = Strangers(member.hosts[0], messages=60, slow=20)
    with ThreadPoolExecutor(3) as pool:
        chief = pool.submit(outcome, 0, member, HELLO, {"value": 5}, 30)
        rest = pool.submit(meet, other, HELLO, {}, wait_seconds=1)
        strangers.come()
        start = time.monotonic()
        assert outcome(1, member, HELLO, {}, 30)["value"] == 5
        assert time.monotonic() - start < 15  # of the 30 that the chief would wait
        assert chief.result()["value"] == 5
        with pytest.raises(LostWorkerError):
            rest.result()
    strangers.leave()


def test_strangers_do_not_prolong_the_wait() -> None:
    member = known(2)
    strangers = Strangers(member.hosts[0], messages=0, slow=5)
    threading.Thread(target=strangers.come).start()
    start = time.monotonic()
    assert "did not answer within 1 s" in outcome(0, member, HELLO, {}, 1)
    assert time.monotonic() - start < 10
    strangers.leave()
