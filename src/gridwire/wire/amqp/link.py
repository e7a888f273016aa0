"""Sessions and links of one connection: windows, credit, deliveries. See `states` for the theory of operation."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gridwire.core.limits import MIB
from gridwire.wire.amqp.errors import INVALID_FIELD, SIZE_EXCEEDED, LinkError
from gridwire.wire.amqp.performatives import RECEIVER, SENDER, Attach, Flow, Transfer
from gridwire.wire.amqp.states import LinkState, next_link

MASK: Final = 0xFFFFFFFF
"""Ids and counts are 32-bit serial numbers that wrap."""

INCOMING_WINDOW: Final = 5000
"""Transfers a session may send before it hears from us; we speak up at half of it."""

OUTGOING_WINDOW: Final = 65_536
HANDLE_MAX: Final = 255
"""Links of one session."""

MESSAGE_BYTES_MAX: Final = 8 * MIB
"""A delivery being put together."""

TAG_BYTES_MAX: Final = 32

PARTS_MAX: Final = 1024
"""Pieces of one delivery kept apart: each costs some ten bytes of its own, and a peer may send single bytes."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message that came in whole: `data[start:end]`."""

    id: int
    data: bytes
    start: int
    end: int
    message_format: int
    settled: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


class Session:
    """A session: the peer's channel is ours too."""

    __slots__ = (
        "by_handle", "channel", "ending", "incoming", "next_delivery_id", "next_incoming_id", "next_outgoing_id",
        "remote_window", "settling", "waiting", "waiting_link",
    )  # fmt: skip

    def __init__(self, channel: int, next_incoming_id: int, remote_window: int) -> None:
        self.channel = channel
        self.next_incoming_id = next_incoming_id
        self.next_outgoing_id = 0
        self.next_delivery_id = 0
        self.remote_window = remote_window
        """Transfers the peer takes before it has to speak up."""
        self.incoming = 0
        """Transfers since we last spoke up."""
        self.by_handle: dict[int, Link] = {}
        self.settling: list[int] = []
        """Ids of deliveries that are accepted and not yet told."""
        self.ending = False
        self.waiting: deque[bytes] = deque()
        """Frames of one message that is larger than the window. Nobody else may send until they are gone."""
        self.waiting_link: Link | None = None

    @property
    def room(self) -> int:
        """Transfers that may be sent now."""
        return 0 if self.waiting else self.remote_window

    def sent(self, frames: int) -> None:
        """So many transfers went out."""
        self.next_outgoing_id = (self.next_outgoing_id + frames) & MASK
        self.remote_window = max(0, self.remote_window - frames)

    def forget(self, link: Link) -> None:
        """A link is gone: what waits of it is not sent any more."""
        if self.waiting_link is link:
            self.waiting.clear()
            self.waiting_link = None

    def flow(self, link: Link | None = None, *, drained: bool = False) -> Flow:
        """Where this session stands, and a link with it."""
        self.incoming = 0
        flow = Flow(self.next_incoming_id, INCOMING_WINDOW, self.next_outgoing_id, OUTGOING_WINDOW)
        if link is not None:
            flow.handle, flow.delivery_count, flow.link_credit = link.handle, link.delivery_count, link.credit
            flow.drain = drained
        return flow

    def take_flow(self, flow: Flow) -> None:
        """The peer said where it stands."""
        seen = flow.next_incoming_id if flow.next_incoming_id is not None else 0
        self.remote_window = (seen + flow.incoming_window - self.next_outgoing_id) & MASK
        if self.remote_window > MASK // 2:  # the peer's window is behind what is already under way
            self.remote_window = 0


@dataclass(slots=True, eq=False)
class Link:
    """One link. `receives`: the peer receives, so we send."""

    session: Session
    name: str
    handle: int
    receives: bool
    settled: bool
    """We send settled, or take everything as settled."""
    state: LinkState = LinkState.ATTACHING
    delivery_count: int = 0
    credit: int = 0
    drain: bool = False
    max_message_size: int = 0
    node: Any = None
    """What the head serves on it."""
    attach: Attach | None = None
    parts: list[bytes] = field(default_factory=list)
    parts_size: int = 0
    first: Transfer | None = None
    delivery_id: int = 0

    @property
    def alive(self) -> bool:
        """Whether anything can still be sent on it."""
        return self.state in (LinkState.ATTACHED, LinkState.DELIVERING)

    def move(self, event: str) -> None:
        """Go on in the state table. Raises LinkError."""
        self.state = next_link(self.state, event)

    def take_credit(self, flow: Flow) -> None:
        """The receiving peer said how much it takes."""
        count = self.delivery_count if flow.delivery_count is None else flow.delivery_count
        credit = (count + (flow.link_credit or 0) - self.delivery_count) & MASK
        self.credit = 0 if credit > MASK // 2 else credit
        self.drain = bool(flow.drain)

    def take_transfer(self, transfer: Transfer, data: bytes, start: int, end: int) -> Delivery | None:
        """A transfer with its payload; returns the delivery it completes, if it does. Raises LinkError."""
        if self.first is None:
            return self._first(transfer, data, start, end)
        if transfer.delivery_id is not None and transfer.delivery_id != self.delivery_id:
            raise LinkError(INVALID_FIELD, "another delivery began before the last one was whole")
        if transfer.aborted:
            self.move("aborted")
            self.forget_parts()
            return None
        self._keep(data[start:end])
        if transfer.more:
            self.move("one of many")
            return None
        self.move("last of many")
        first, whole = self.first, b"".join(self.parts)
        settled = bool(first.settled or transfer.settled)
        self.forget_parts()
        return self._delivery(first, whole, 0, len(whole), settled)

    def _first(self, transfer: Transfer, data: bytes, start: int, end: int) -> Delivery | None:
        if transfer.delivery_id is None:
            raise LinkError(INVALID_FIELD, "the first transfer of a delivery has no delivery-id")
        if transfer.delivery_tag is not None and len(transfer.delivery_tag) > TAG_BYTES_MAX:
            raise LinkError(INVALID_FIELD, f"a delivery-tag of more than {TAG_BYTES_MAX} bytes")
        if transfer.aborted:
            return None
        self.delivery_id = transfer.delivery_id
        if transfer.more:
            self.move("first of many")
            self.first = transfer
            self._keep(data[start:end])
            return None
        if self.state is not LinkState.ATTACHED:  # there it changes nothing, and nearly every delivery comes there
            self.move("whole")
        if self.max_message_size and end - start > self.max_message_size:
            raise self._too_large(end - start)
        return self._delivery(transfer, data, start, end, bool(transfer.settled))

    def _delivery(self, transfer: Transfer, data: bytes, start: int, end: int, settled: bool) -> Delivery | None:
        self.delivery_count = (self.delivery_count + 1) & MASK
        self.credit = max(0, self.credit - 1)
        if transfer.resume:
            return None  # part 2, 2.6.13: a resumed delivery that the receiver does not know is ignored; it knows none
        return Delivery(self.delivery_id, data, start, end, transfer.message_format or 0, settled)

    def _keep(self, piece: bytes) -> None:
        self.parts_size += len(piece)
        if self.parts_size > (self.max_message_size or MESSAGE_BYTES_MAX):
            raise self._too_large(self.parts_size)
        self.parts.append(piece)
        if len(self.parts) > PARTS_MAX:
            self.parts = [b"".join(self.parts)]

    def _too_large(self, size: int) -> LinkError:
        limit = self.max_message_size or MESSAGE_BYTES_MAX
        self.forget_parts()
        return LinkError(SIZE_EXCEEDED, f"a message of {size} bytes or more; {limit} are taken")

    def forget_parts(self) -> None:
        """Let go of a delivery that is not whole."""
        self.parts = []
        self.parts_size = 0
        self.first = None


def from_attach(session: Session, attach: Attach) -> Link:
    """The link a peer wants."""
    receives = attach.role is RECEIVER
    link = Link(session, attach.name, attach.handle, receives, False)
    link.attach = attach
    if not receives:
        link.delivery_count = attach.initial_delivery_count or 0
    assert receives or attach.role is SENDER
    return link


def ranges(ids: list[int]) -> list[tuple[int, int]]:
    """Runs of ids, for one disposition each."""
    out: list[tuple[int, int]] = []
    for number in sorted(ids):
        if out and out[-1][1] + 1 == number:
            out[-1] = (out[-1][0], number)
        else:
            out.append((number, number))
    return out
