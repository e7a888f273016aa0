"""Apache Qpid Proton, unmodified, against the AMQP head on a real port: what any AMQP 1.0 client expects of a node."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("proton", reason="python-qpid-proton-wheel has no wheel for this machine")
from proton import (
    Described,
    Disposition,
    LinkException,
    Message,
    ProtonException,
    Terminus,
    Timeout,
    int32,
    symbol,
    timestamp,
    ulong,
)
from proton.reactor import AtMostOnce, Container, Filter, LinkOption
from proton.utils import BlockingConnection, ConnectionClosed, LinkDetached, SyncRequestResponse

DEADLINE_S = 60
NOTHING_S = 0.3
"""How long nothing more must come; a hub that sends too much does so at once."""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    served = hub_process(tmp_path_factory.mktemp("proton") / "data", "--no-workers")
    yield served
    served.stop()


@pytest.fixture
def name(hub: Any) -> str:
    name = f"p-{next(_numbers)}"
    create(hub, name)
    return name


def create(hub: Any, name: str) -> None:
    told = json.dumps({"name": name, "partitions": 2}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{hub.http}/v1/hubs", told), timeout=DEADLINE_S).close()


def position(hub: Any, group: str, name: str, partition: int) -> int:
    """What a group has committed; -1 when nothing."""
    for place in hub.get(f"/v1/groups/{group}")["partitions"]:
        if (place["hub"], place["partition"]) == (name, partition):
            return int(place["position"])
    return -1


@pytest.fixture
def connect(hub: Any) -> Iterator[Callable[..., BlockingConnection]]:
    made: list[BlockingConnection] = []

    def connect(**options: Any) -> BlockingConnection:
        made.append(BlockingConnection(hub.amqp, timeout=DEADLINE_S, **options))
        return made[-1]

    yield connect
    for each in made:
        if not each.disconnected:
            each.close()


def taken(receiver: Any, count: int, outcome: str = "accept") -> list[Any]:
    out = []
    for _ in range(count):
        out.append(receiver.receive())
        if receiver.fetcher.unsettled:
            getattr(receiver, outcome)()
    return out


def until(connection: BlockingConnection, condition: Callable[[], bool]) -> None:
    """Wait for what the client is not told of; it looks only when something comes, so it is asked again and again."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "nothing happened in time"
        with contextlib.suppress(Timeout):
            connection.wait(lambda: False, timeout=0.05)


BODIES = {
    "string": "text ü",
    "map": {"kw": 3.5, "on": True, "deep": {"a": [1, None]}},
    "list": [1, "two", None],
    "int": int32(-7),
    "ulong": ulong(2**64 - 1),
    "timestamp": timestamp(1_700_000_000_000),
    "uuid": uuid.UUID(int=7),
    "described": Described(symbol("a:b"), "v"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_value_body_comes_back(connect: Any, name: str, kind: str) -> None:
    connection = connect()
    connection.create_sender(name).send(Message(body=BODIES[kind]))
    (back,) = taken(connection.create_receiver(name), 1)
    assert (back.body, type(back.body)) == (BODIES[kind], type(BODIES[kind]))


def test_every_field_comes_back(connect: Any, name: str) -> None:
    connection = connect()
    told: dict[str, Any] = {
        "id": uuid.UUID(int=9), "user_id": b"me", "address": name, "subject": "s", "reply_to": "r",
        "correlation_id": ulong(5), "content_type": symbol("a/b"), "content_encoding": symbol("c"),
        "expiry_time": 1_800_000_000, "creation_time": 1_700_000_000, "group_id": "g", "group_sequence": 3,
        "reply_to_group_id": "rg", "durable": True, "priority": 9, "ttl": 3600.0,
    }  # fmt: skip
    message = Message(body=b"\x00\xff", inferred=True, **told)
    message.properties = {"unit": "kW", "number": int32(7), "none": None, "bytes": b"\x01", "at": timestamp(5)}
    message.annotations = {symbol("x-own"): "mine"}
    connection.create_sender(name).send(message)
    (back,) = taken(connection.create_receiver(name), 1)
    assert {field: getattr(back, field) for field in told} == told
    assert (bytes(back.body), back.inferred) == (b"\x00\xff", True)
    assert back.properties == message.properties
    assert back.annotations[symbol("x-own")] == "mine"
    assert {"x-opt-offset", "x-opt-sequence-number", "x-opt-enqueued-time"} <= set(back.annotations)


def test_settled_and_unsettled(connect: Any, name: str) -> None:
    connection = connect()
    connection.create_sender(name, name="settled", options=AtMostOnce()).send(Message(body="settled"))
    sender = connection.create_sender(name)
    assert sender.send(Message(body="unsettled")).remote_state == Disposition.ACCEPTED
    receiver = connection.create_receiver(name, credit=10)
    assert sorted(each.body for each in taken(receiver, 2)) == ["settled", "unsettled"]


def test_outcomes(connect: Any, name: str) -> None:
    """Released and modified events come again, accepted and rejected ones do not."""
    connection = connect()
    sender = connection.create_sender(f"{name}/Partitions/0")
    for number in range(4):
        sender.send(Message(body=number))
    receiver = connection.create_receiver(name, credit=None)
    first = receiver.receive()
    receiver.release(delivered=False)
    again = receiver.receive()
    assert (first.body, again.body) == (0, 0)
    delivery = receiver.fetcher.unsettled.popleft()
    delivery.local.failed = True
    delivery.update(Disposition.MODIFIED)
    delivery.settle()
    third = receiver.receive()
    assert (third.body, third.delivery_count) == (0, 1)
    receiver.accept()
    assert taken(receiver, 1, "reject")[0].body == 1
    assert [each.body for each in taken(receiver, 2)] == [2, 3]


def test_a_message_of_900_kilobytes_in_frames_of_512_bytes(connect: Any, name: str) -> None:
    body = os.urandom(900_000)
    connect().create_sender(name).send(Message(body=body, inferred=True))
    receiver = connect(max_frame_size=512).create_receiver(name)
    (back,) = taken(receiver, 1)
    assert bytes(back.body) == body


def test_a_delivery_of_many_transfers(connect: Any, name: str) -> None:
    connection = connect()
    data = Message(body=b"p" * 100_000, inferred=True).encode()
    sender = connection.create_sender(name)
    delivery = sender.link.delivery("many")
    for start in range(0, len(data), 30_000):
        sender.link.stream(data[start : start + 30_000])
        connection.container.process()
    sender.link.advance()
    connection.wait(lambda: delivery.settled)
    assert delivery.remote_state == Disposition.ACCEPTED
    assert len(taken(connection.create_receiver(name), 1)[0].body) == 100_000


def test_too_large_is_told(connect: Any, name: str) -> None:
    sender = connect().create_sender(name)
    assert 1_000_000 < sender.link.remote_max_message_size < 9_000_000
    with pytest.raises(LinkDetached, match="message-size-exceeded"):
        sender.send(Message(body=b"x" * sender.link.remote_max_message_size, inferred=True))


def test_no_more_than_credit(connect: Any, name: str) -> None:
    connection = connect()
    sender = connection.create_sender(f"{name}/Partitions/0")
    for number in range(8):
        sender.send(Message(body=number))
    receiver = connection.create_receiver(name, credit=None)
    receiver.link.flow(3)
    connection.wait(lambda: len(receiver.fetcher.incoming) == 3)
    nothing_comes_beyond(connection, receiver, 3)
    receiver.link.flow(2)
    connection.wait(lambda: len(receiver.fetcher.incoming) == 5)
    nothing_comes_beyond(connection, receiver, 5)


def nothing_comes_beyond(connection: BlockingConnection, receiver: Any, count: int) -> None:
    with pytest.raises(Timeout):
        connection.wait(lambda: len(receiver.fetcher.incoming) > count, timeout=NOTHING_S)


@pytest.mark.parametrize("address", ["{}", "{}/ConsumerGroups/$Default/Partitions/0"])
def test_drain(connect: Any, name: str, address: str) -> None:
    connection = connect()
    sender = connection.create_sender(f"{name}/Partitions/0")
    for number in range(3):
        sender.send(Message(body=number))
    receiver = connection.create_receiver(address.format(name), credit=None)
    receiver.link.drain(10)
    connection.wait(lambda: receiver.link.credit == 0)
    assert [each[0].body for each in receiver.fetcher.incoming] == [0, 1, 2]
    receiver.link.drain_mode = False
    sender.send(Message(body=3))
    receiver.link.flow(1)
    connection.wait(lambda: len(receiver.fetcher.incoming) == 4)


def test_positions_in_a_partition(connect: Any, name: str) -> None:
    connection = connect()
    sender = connection.create_sender(f"{name}/Partitions/1")
    for number in range(3):
        sender.send(Message(body=number))
    text = "amqp.annotation.x-opt-offset > '0'"
    selector = symbol("apache.org:selector-filter:string")
    for key in (selector, ulong(0x0000468C00000004)):
        receiver = connection.create_receiver(
            f"{name}/ConsumerGroups/$Default/Partitions/1", credit=5, options=Filter({selector: Described(key, text)})
        )
        assert [each.body for each in taken(receiver, 2)] == [1, 2]
        receiver.close()


def test_a_filter_that_is_not_served_is_refused(connect: Any, name: str) -> None:
    selector = symbol("apache.org:selector-filter:string")
    with pytest.raises(LinkDetached, match="argument-error"):
        connect().create_receiver(name, options=Filter({selector: Described(selector, "colour = 'red'")}))


@pytest.mark.parametrize(
    ("address", "condition"),
    [("nowhere-at-all", "not-found"), ("{}/Partitions/7", "out-of-range"), ("{}/what/is/this/", "not-found")],
)
def test_unknown_nodes(connect: Any, name: str, address: str, condition: str) -> None:
    with pytest.raises(LinkDetached, match=condition):
        connect().create_receiver(address.format(name))


def test_a_sender_to_an_unknown_node_is_refused(start_hub: Any) -> None:
    closed = start_hub("--no-workers", "--no-auto-create")
    connection = BlockingConnection(closed.amqp, timeout=DEADLINE_S)
    with pytest.raises(LinkDetached, match="not-found"):
        connection.create_sender("nowhere")
    connection.close()


def test_dynamic_nodes(connect: Any, name: str) -> None:
    connection = connect()
    asking = SyncRequestResponse(connection, "$management")
    assert asking.reply_to.startswith("$replies/")
    request = Message(properties={"operation": "READ", "type": "com.microsoft:eventhub", "name": name})
    answer = asking.call(request)
    assert (answer.properties["status-code"], answer.body["partition_count"]) == (200, 2)

    class Dynamic(LinkOption):
        def apply(self, link: Any) -> None:
            link.target.dynamic = True

    with pytest.raises(LinkDetached, match="not-implemented"):
        connection.create_sender(None, options=Dynamic())


def test_transactions_are_refused(connect: Any) -> None:
    class Coordinator(LinkOption):
        def apply(self, link: Any) -> None:
            link.target.type = Terminus.COORDINATOR

    with pytest.raises(LinkDetached, match="not-implemented"):
        connect().create_sender(None, options=Coordinator())


def drop(connection: BlockingConnection) -> None:
    """As if the network went away: the socket closes, nothing is said."""
    connection.conn.transport._selectable._delegate.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ProtonException):
        connection.wait(lambda: connection.disconnected)
    connection.disconnected = True


def test_resume_after_reconnect(connect: Any, hub: Any, name: str) -> None:
    """Same container, same link names, nothing said in between: what was accepted is there once, what was not comes."""
    container = Container()
    container.container_id = "one"
    first = connect(container=container)
    sender = first.create_sender(f"{name}/Partitions/0", name="out")
    for number in range(4):
        sender.send(Message(body=number))
    receiver = first.create_receiver(name, credit=4, name="in")
    assert [receiver.receive().body for _ in range(4)] == [0, 1, 2, 3]
    receiver.accept()
    receiver.accept()
    until(first, lambda: position(hub, "$Default", name, 0) == 2)
    drop(first)
    second = connect(container=Container())
    second.container.container_id = "one"
    assert [each.body for each in taken(second.create_receiver(name, credit=4, name="in"), 2)] == [2, 3]
    sender = second.create_sender(f"{name}/Partitions/0", name="out")
    assert sender.send(Message(body=4)).remote_state == Disposition.ACCEPTED


def test_two_receivers_share_a_hub_and_one_takes_over(connect: Any, name: str) -> None:
    connection, other = connect(), connect()
    one = connection.create_receiver(name, credit=10)
    two = other.create_receiver(name, credit=10)
    sender = connect()
    for partition in (0, 1):
        sender.create_sender(f"{name}/Partitions/{partition}", name=f"{partition}").send(Message(body=partition))
    bodies = [taken(one, 1)[0].body, taken(two, 1)[0].body]
    assert sorted(bodies) == [0, 1]
    two.close()
    sender.create_sender(f"{name}/Partitions/{bodies[1]}", name="again").send(Message(body=7))
    assert taken(one, 1)[0].body == 7


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[tuple[Any, str, str]]:
    data = tmp_path_factory.mktemp("proton-auth") / "data"
    served = hub_process(data, "--no-workers", "--auth")
    words = dict(
        part.split("=", 1) for part in (data / "root.connection-string").read_text().strip().split(";") if part
    )
    yield served, words["SharedAccessKeyName"], words["SharedAccessKey"]
    served.stop()


def sign_in(closed: tuple[Any, str, str], mechanism: str, user: str = "", key: str = "") -> BlockingConnection:
    options: dict[str, Any] = {"allowed_mechs": mechanism, "allow_insecure_mechs": True, "sasl_enabled": True}
    if user:
        options |= {"user": user, "password": key}
    return BlockingConnection(closed[0].amqp, timeout=DEADLINE_S, **options)


def test_plain(closed: tuple[Any, str, str]) -> None:
    connection = sign_in(closed, "PLAIN", closed[1], closed[2])
    assert connection.create_sender("plain").send(Message(body="in")).remote_state == Disposition.ACCEPTED
    connection.close()
    with pytest.raises(ProtonException):
        sign_in(closed, "PLAIN", closed[1], "wrong")


def test_anonymous_may_do_nothing_with_sign_in(closed: tuple[Any, str, str], connect: Any, name: str) -> None:
    connection = sign_in(closed, "ANONYMOUS")
    with pytest.raises((LinkDetached, LinkException), match="unauthorized"):
        connection.create_sender("anything")
    connection.close()
    assert connect(allowed_mechs="ANONYMOUS").create_sender(name).send(Message(body="in")).remote_state
    assert connect(sasl_enabled=False).create_sender(name).send(Message(body="in")).remote_state


def test_external_takes_a_certificate(closed: tuple[Any, str, str]) -> None:
    with pytest.raises((ConnectionClosed, ProtonException)):
        sign_in(closed, "EXTERNAL")
