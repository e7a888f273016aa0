"""A client's side of AMQP without I/O, for tests: it obeys windows and credit, and remembers what it was told.

Bytes go in by `take`, come out of `out`. Frames that are wrong on purpose are sent with `say`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from gridwire.wire.amqp import frames
from gridwire.wire.amqp.frames import Frame, FrameReader, frame, protocol_header
from gridwire.wire.amqp.performatives import (
    AMQP_FRAMES,
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Close,
    Composite,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Source,
    Target,
    Transfer,
    decode_frame,
    encode_composite,
)

WINDOW = 1_000_000


@dataclass
class Remote:
    """One link from the client's side."""

    handle: int
    role: bool
    credit: int = 0
    count: int = 0
    attached: Attach | None = None
    detached: Detach | None = None
    parts: list[bytes] = field(default_factory=list)
    deliveries: list[tuple[Transfer, bytes]] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    first: Transfer | None = None


class Client:
    """See the module. One connection with one session on channel 1."""

    def __init__(self, *, frame_max: int = 65_536, window: int = WINDOW, open_now: bool = True) -> None:
        self.out: list[bytes] = []
        self.reader = FrameReader()
        self.reader.frame_bytes_max = frame_max
        self.frame_max = frame_max
        self.peer_frame_max = frames.FRAME_BYTES_LEAST
        self.window = window
        self.links: dict[int, Remote] = {}
        self.next_outgoing = self.next_delivery = self.next_incoming = 0
        self.remote_window = 0
        self.queue: deque[bytes] = deque()
        self.outcomes: dict[int, Any] = {}
        self.settled: set[int] = set()
        self.closed: Close | None = None
        self.ended: End | None = None
        if open_now:
            self.out += [protocol_header(frames.AMQP)]
            self.say(Open("client", "host", frame_max, 10), channel=0)
            self.say(Begin(None, 0, window, window))

    # -- out

    def say(self, body: Composite, payload: bytes = b"", channel: int = 1) -> None:
        self.out.append(frame(channel, encode_composite(body) + payload))

    def attach(self, role: bool, address: Any, **fields: Any) -> Remote:
        handle = len(self.links)
        link = self.links[handle] = Remote(handle, role)
        own = "client"
        source, target = (Source(address), Target(own)) if role is RECEIVER else (Source(own), Target(address))
        told: dict[str, Any] = {"source": source, "target": target, "initial_delivery_count": 0} | fields
        self.say(Attach(told.pop("name", f"link-{handle}"), handle, role, **told))
        return link

    def flow(self, link: Remote | None = None, credit: int = 0, **fields: Any) -> None:
        told = Flow(self.next_incoming, self.window, self.next_outgoing, WINDOW, **fields)
        if link is not None:
            link.credit = credit
            told.handle, told.delivery_count, told.link_credit = link.handle, link.count, credit
        self.say(told)

    def send(self, link: Remote, payload: bytes, *, settled: bool = False, frame_max: int = 0, **fields: Any) -> int:
        """Send a message as soon as windows allow; returns its delivery id."""
        number = self.next_delivery
        self.next_delivery += 1
        link.count += 1
        link.credit -= 1
        room = min(self.peer_frame_max, frame_max or self.peer_frame_max) - 128
        pieces = [payload[at : at + room] for at in range(0, len(payload), room)] or [b""]
        for index, piece in enumerate(pieces):
            transfer = Transfer(
                link.handle, number, number.to_bytes(4, "big"), 0, settled, index + 1 < len(pieces), **fields
            )
            self.queue.append(frame(1, encode_composite(transfer) + piece))
        self._move()
        return number

    def settle(self, first: int, last: int, state: Any, settled: bool = True) -> None:
        self.say(Disposition(RECEIVER, first, last, settled, state))

    def _move(self) -> None:
        while self.queue and self.remote_window > 0:
            self.out.append(self.queue.popleft())
            self.next_outgoing += 1
            self.remote_window -= 1

    # -- in

    def take(self, data: bytes) -> None:
        self.reader.feed(data)
        while (found := self.reader.next()) is not None:
            if isinstance(found, Frame) and found.end > found.start:
                body, at = decode_frame(found.data, found.start, found.end, AMQP_FRAMES)
                self._frame(body, found.data[at : found.end])
        self._move()

    def _frame(self, body: Composite, payload: bytes) -> None:
        if isinstance(body, Open):
            self.peer_frame_max = body.max_frame_size or 512
        elif isinstance(body, Begin):
            self.remote_window = body.incoming_window
        elif isinstance(body, Attach):
            self.links[body.handle].attached = body
        elif isinstance(body, Flow):
            self._flow(body)
        elif isinstance(body, Transfer):
            self._transfer(self.links[body.handle], body, payload)
        elif isinstance(body, Disposition):
            for number in range(body.first, (body.first if body.last is None else body.last) + 1):
                if body.role is RECEIVER:
                    self.outcomes[number] = body.state
                self.settled.add(number)
        elif isinstance(body, Detach):
            self.links[body.handle].detached = body
        elif isinstance(body, End):
            self.ended = body
        elif isinstance(body, Close):
            self.closed = body

    def _flow(self, flow: Flow) -> None:
        self.remote_window = (flow.next_incoming_id or 0) + flow.incoming_window - self.next_outgoing
        if flow.handle is None:
            return
        link = self.links[flow.handle]
        link.flows.append(flow)
        if link.role is SENDER:
            link.credit = (flow.delivery_count or 0) + (flow.link_credit or 0) - link.count
        else:
            link.count, link.credit = flow.delivery_count or 0, flow.link_credit or 0

    def _transfer(self, link: Remote, transfer: Transfer, payload: bytes) -> None:
        self.next_incoming += 1
        self.window -= 1
        assert self.window >= 0, "a transfer beyond the window"
        if link.first is None:
            assert link.credit > 0, "a delivery beyond the credit"
            link.credit -= 1
            link.count += 1
            link.first = transfer
        link.parts.append(payload)
        if not transfer.more:
            link.deliveries.append((link.first, b"".join(link.parts)))
            link.parts, link.first = [], None
