"""A raw AMQP 1.0 client that costs little: it repeats prepared bytes and looks at what it must. A process of its own.

    python bench/amqp_client.py KIND ADDRESS EVENTS NODE...

    send       one event of 100 B per transfer, unsettled, from several links per node, each node on its own connection
    durable    the same with a header that asks for durability
    sections   the same with header, properties (a message-id that is new every time) and application properties
    batches    as send with 1,000 events per transfer, in the batch format of Azure's SDKs, one link per node
    section batches    both
    drain      receive what the nodes hold, settled, with credit for all of it
    sdk        the unmodified Azure SDK sends one batch of 1,000 again and again; the nodes' first is the hub
    sdk build  the same, but builds every batch
    idle       attach so many receivers without credit, say so and wait for a line

It prints events a second (from the first byte to the last acceptance or event) as JSON. `idle` prints a line instead.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from gridwire.wire.amqp import frames, types
from gridwire.wire.amqp.frames import Frame, FrameReader
from gridwire.wire.amqp.performatives import (
    AMQP_FRAMES,
    RECEIVER,
    SENDER,
    SETTLED,
    UNSETTLED,
    Attach,
    Begin,
    Composite,
    Disposition,
    Flow,
    Open,
    Source,
    Target,
    Transfer,
    decode_frame,
    encode_composite,
)
from gridwire.wire.amqp.records import BATCH_FORMAT
from gridwire.wire.amqp.types import Described

VALUE_BYTES: Final = 100
BATCH: Final = 1000
LINKS: Final = 16
"""Senders per connection."""
CHUNK: Final = 50
"""Transfers of one link that go out in one write."""
UNDER_WAY: Final = {"send": 2000, "durable": 2000, "sections": 2000, "batches": 16, "section batches": 16}
"""Deliveries a connection leaves unsettled at most."""
IDLE_CONNECTIONS: Final = 10
WINDOW: Final = 1 << 30
WAIT_S: Final = 60.0
DURABLE_FOREVER: Final = 2

_DURABLE: Final = b"\x00\x53\x70\xc0\x02\x01\x41"
"""A header section that asks for durability: RabbitMQ writes nothing else to its disk."""
_PERFORMATIVE: Final = 2
"""Where the code of a frame's performative is, after the descriptor's two bytes."""
_FROM_START: Final = "apache.org:selector-filter:string"


def data_section(body: bytes) -> bytes:
    """One data section."""
    return b"\x00\x53\x75\xb0" + struct.pack(">I", len(body)) + body


_NUMBER: Final = b"\xff" * 4
"""Stands where the number of a delivery goes."""


def described_event(message_id: bytes) -> bytes:
    """An event as devices send it: header, five properties, three application properties, the body."""
    header = types.list_([types.TRUE, types.ubyte(4), types.uint(60_000)])
    properties = [types.NULL] * 7
    properties[0], properties[3] = types.binary(message_id), types.string("reading")
    properties[5], properties[6] = types.string("order-7"), types.symbol("application/json")
    told = {"unit": types.string("kWh"), "meter": types.string("NL0012345678"), "interval": types.long(900)}
    application = types.map_((types.string(name), value) for name, value in told.items())
    sections = ((0x70, header), (0x73, types.list_(properties)), (0x74, application))
    return b"".join(types.described(code, value) for code, value in sections) + EVENT


EVENT: Final = data_section(b"x" * VALUE_BYTES)
PAYLOADS: Final = {
    "send": EVENT,
    "durable": _DURABLE + EVENT,
    "sections": described_event(_NUMBER),
    "batches": data_section(EVENT) * BATCH,
    "section batches": b"".join(data_section(described_event(struct.pack(">I", at))) for at in range(BATCH)),
}


class Connection:
    """One connection with one session; the caller polls its socket."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("amqp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = FrameReader()
        self._reader.frame_bytes_max = frames.FRAME_BYTES_MAX
        self.credit: dict[int, int] = {}
        self.next_id = self.settled = self.received = 0
        self.window = 0
        self._attached = 0
        opened, begun = Open("bench", host, frames.FRAME_BYTES_MAX), Begin(None, 0, WINDOW, WINDOW)
        self.socket.sendall(frames.protocol_header(frames.AMQP))
        self.write(opened)
        self.write(begun)
        self.wait_until(lambda: self.window > 0)

    def write(self, body: Composite) -> None:
        """Send a frame without payload."""
        self.socket.sendall(frames.frame(0, encode_composite(body)))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Read until something is true."""
        while not condition():
            self.read()

    def read(self) -> None:
        """Take one read of the socket; blocks when nothing is there."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise SystemExit("the server closed a connection")
        self._reader.feed(data)
        while (found := self._reader.next()) is not None:
            if not isinstance(found, Frame) or found.end == found.start:
                continue
            if found.data[found.start + _PERFORMATIVE] == Transfer.CODE:
                self.received += 1
            else:
                self._take(decode_frame(found.data, found.start, found.end, AMQP_FRAMES)[0])

    def _take(self, body: Composite) -> None:
        if isinstance(body, Disposition):
            self.settled += (body.last if body.last is not None else body.first) - body.first + 1
        elif isinstance(body, Flow):
            self.window = (body.next_incoming_id or 0) + body.incoming_window - self.next_id
            if body.handle is not None:
                self.credit[body.handle] = (body.delivery_count or 0) + (body.link_credit or 0)
        elif isinstance(body, Begin):
            self.window = body.incoming_window
        elif isinstance(body, Attach):
            self._attached += 1
        elif not isinstance(body, Open):
            raise SystemExit(f"the server says {body}")

    def attach_sender(self, handle: int, node: str) -> None:
        """Attach and wait for credit."""
        target = Target(node, DURABLE_FOREVER)
        name = f"s{handle}-{id(self)}"
        self.write(Attach(name, handle, SENDER, UNSETTLED, 0, Source("b"), target, initial_delivery_count=0))
        self.wait_until(lambda: handle in self.credit)

    def attach_receiver(self, handle: int, node: str, settle: int = SETTLED) -> None:
        """Attach at the beginning and wait for the answer."""
        expected = self._attached + 1
        # the filter is what Azure's SDKs send; a queue has no such place, and RabbitMQ passes it over
        filters = {_FROM_START: Described(_FROM_START, "amqp.annotation.x-opt-offset > '-1'")}
        source = Source(node, DURABLE_FOREVER, filter=filters if "/Partitions/" in node else None)
        self.write(Attach(f"r{handle}-{id(self)}", handle, RECEIVER, settle, 0, source, Target("bench")))
        self.wait_until(lambda: self._attached >= expected)


class Sender:
    """Sends a share of the events on one connection, as window, credit and what is under way allow."""

    def __init__(self, address: str, node: str, links: int, payload: bytes, message_format: int, most: int) -> None:
        self.connection = Connection(address)
        self.sent = [0] * links
        self._most = most
        self._turn = 0
        self._chunk = max(1, min(CHUNK, most // 4))
        self._frames = []
        for handle in range(links):
            self.connection.attach_sender(handle, node)
            transfer = encode_composite(Transfer(handle, 0xFFFFFFFF, _NUMBER, message_format, False))
            self._frames.append(frames.frame(0, transfer + payload).split(_NUMBER))

    def push(self, total: int) -> bool:
        """Send what may go now. Returns whether everything is sent and accepted."""
        connection = self.connection
        while connection.next_id < total:
            room = min(self._most - (connection.next_id - connection.settled), total - connection.next_id)
            room = min(room, self._chunk, connection.window)
            if room < min(self._chunk, total - connection.next_id) or not self._burst(room):
                return False
        return connection.settled >= total

    def _burst(self, count: int) -> bool:
        """Send up to so many on the next link that has credit."""
        connection, links = self.connection, len(self.sent)
        for step in range(links):
            handle = (self._turn + step) % links
            may = min(count, connection.credit[handle] - self.sent[handle])
            if may > 0:
                break
        else:
            return False
        self._turn = handle + 1
        pieces = self._frames[handle]
        parts = [
            number.to_bytes(4, "big").join(pieces) for number in range(connection.next_id, connection.next_id + may)
        ]
        connection.next_id += may
        connection.window -= may
        self.sent[handle] += may
        connection.socket.sendall(b"".join(parts))
        return True


def send(address: str, events: int, nodes: Sequence[str], kind: str) -> float:
    """Events accepted a second."""
    batch = kind.endswith("batches")
    links, message_format = (1, BATCH_FORMAT) if batch else (LINKS, 0)
    senders = [Sender(address, node, links, PAYLOADS[kind], message_format, UNDER_WAY[kind]) for node in nodes]
    share = events // len(nodes) // (BATCH if batch else 1)
    begun_s = time.perf_counter()
    _serve([each.connection for each in senders], lambda at: senders[at].push(share))
    return share * len(nodes) * (BATCH if batch else 1) / (time.perf_counter() - begun_s)


def drain(address: str, events: int, nodes: Sequence[str], _: str) -> float:
    """Events received a second."""
    connections = [Connection(address) for _ in nodes]
    for connection, node in zip(connections, nodes, strict=True):
        connection.attach_receiver(0, node)
    share = events // len(nodes)
    begun_s = time.perf_counter()
    for connection in connections:
        connection.write(Flow(0, WINDOW, 0, WINDOW, 0, 0, share))
    _serve(connections, lambda at: connections[at].received >= share)
    return share * len(nodes) / (time.perf_counter() - begun_s)


def _serve(connections: Sequence[Connection], done: Callable[[int], bool]) -> None:
    """Read whoever has something and let him go on, until all are done."""
    poll = select.poll()
    by_descriptor = {each.socket.fileno(): at for at, each in enumerate(connections)}
    for at, connection in enumerate(connections):
        if not done(at):
            poll.register(connection.socket, select.POLLIN)
        else:
            del by_descriptor[connection.socket.fileno()]
    while by_descriptor:
        found = poll.poll(WAIT_S * 1000)
        if not found:
            raise SystemExit(f"nothing came for {WAIT_S:.0f} s")
        for descriptor, _ in found:
            at = by_descriptor[descriptor]
            connections[at].read()
            if done(at):
                poll.unregister(descriptor)
                del by_descriptor[descriptor]


def sdk(address: str, events: int, nodes: Sequence[str], kind: str) -> float:
    """Events a second through the unmodified Azure SDK, one producer."""
    from azure.eventhub import EventData, EventHubProducerClient

    place = address.removeprefix("amqp://")
    text = f"Endpoint=sb://{place};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true"
    client = EventHubProducerClient.from_connection_string(text, eventhub_name=nodes[0])

    def build() -> Any:
        batch = client.create_batch(partition_id="0")
        for _ in range(BATCH):
            batch.add(EventData(b"x" * VALUE_BYTES))
        return batch

    batch = build()
    client.send_batch(batch)  # the connection is made, the link attached
    begun_s = time.perf_counter()
    for _ in range(events // BATCH):
        client.send_batch(build() if kind == "sdk build" else batch)
    rate = events / (time.perf_counter() - begun_s)
    client.close()
    return rate


def idle(address: str, receivers: int, nodes: Sequence[str]) -> None:
    """Attach them without credit, each in a group of its own, and wait for a line."""
    connections = [Connection(address) for _ in range(IDLE_CONNECTIONS)]
    for number, connection in enumerate(connections):
        for handle in range(receivers // IDLE_CONNECTIONS):
            connection.attach_receiver(handle, f"{nodes[0]}/ConsumerGroups/g{number}-{handle}/Partitions/0")
    print("ready", flush=True)
    sys.stdin.readline()


def main() -> None:
    kind, address, events, *nodes = sys.argv[1:]
    if kind == "idle":
        idle(address, int(events), nodes)
        return
    run = {"drain": drain, "sdk": sdk, "sdk build": sdk}.get(kind, send)
    print(json.dumps(run(address, int(events), nodes, kind)))


if __name__ == "__main__":
    main()
