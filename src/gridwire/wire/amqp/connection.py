"""One AMQP connection without I/O: bytes in, events out, bytes to send in `out`.

    connection = Connection(settings)
    connection.feed(data)
    for event in connection.events(): ...      # answer with the methods below
    send(b"".join(connection.out)); connection.out.clear()

An error of the peer becomes close, end or detach with its condition, and then an event; `events` never raises for it.
Whoever drives it may stop in the middle of `events` and go on later: frames that are not taken wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import msgspec

from gridwire.wire.amqp import frames
from gridwire.wire.amqp.errors import (
    CONNECTION_FORCED,
    FRAMING_ERROR,
    HANDLE_IN_USE,
    INVALID_FIELD,
    LIMIT,
    LINK_STOLEN,
    NOT_ALLOWED,
    UNATTACHED_HANDLE,
    AmqpError,
    LinkError,
    SessionError,
)
from gridwire.wire.amqp.frames import EMPTY_FRAME, Frame, FrameReader, ProtocolHeader, frame, protocol_header
from gridwire.wire.amqp.link import (
    HANDLE_MAX,
    INCOMING_WINDOW,
    OUTGOING_WINDOW,
    Delivery,
    Link,
    Session,
    from_attach,
    ranges,
)
from gridwire.wire.amqp.performatives import (
    AMQP_FRAMES,
    RECEIVER,
    SASL_FRAMES,
    SENDER,
    SETTLED,
    UNSETTLED,
    Accepted,
    Attach,
    Begin,
    Close,
    Composite,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    Source,
    State,
    Target,
    Transfer,
    decode_frame,
    encode_composite,
)
from gridwire.wire.amqp.states import ConnectionState, LinkState, next_connection
from gridwire.wire.amqp.types import Symbol

CHANNEL_MAX: Final = 4999
"""Sessions of one connection: some clients open one a link."""

LINKS_MAX: Final = 4096
"""Links of one connection."""

NAME_CHARS_MAX: Final = 1024
"""A link's name or a container's id: they are kept, and shown in logs."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What we say in open. `mechanisms`: SASL's, in order. `sasl`: refuse those who leave SASL out."""

    container_id: str
    mechanisms: tuple[str, ...] = ("ANONYMOUS",)
    sasl: bool = False
    idle_time_out_ms: int = 120_000


# -- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SigningIn:
    """Somebody wants in: answer with `sasl_outcome` or `sasl_challenge`. `mechanism` is empty for a later answer."""

    mechanism: str
    response: bytes
    hostname: str | None


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection is open; it is answered already."""

    open: Open


@dataclass(frozen=True, slots=True)
class Attached:
    """A link is wanted: answer with `accept` or `refuse`."""

    link: Link


class Delivered(msgspec.Struct, frozen=True):
    """A whole message. A struct, for there is one for every event."""

    link: Link
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Credited:
    """A receiver's credit, drain or window changed. `link` None: the window of a session."""

    session: Session
    link: Link | None
    echo: bool


@dataclass(frozen=True, slots=True)
class Settling:
    """A receiver says what became of our deliveries `first` to `last`."""

    session: Session
    first: int
    last: int
    state: State | None
    settled: bool


@dataclass(frozen=True, slots=True)
class Detached:
    """A link is gone; it is answered already."""

    link: Link
    closed: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over: send what is in `out`, then close the socket."""

    error: Error | None
    ours: bool


Event = SigningIn | Opened | Attached | Delivered | Credited | Settling | Detached | Closed


class Connection:
    """See the module."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.out: list[bytes] = []
        self.state = ConnectionState.START
        self.sessions: dict[int, Session] = {}
        self.links = 0
        self.partial_bytes = 0
        """Bytes of deliveries whose last transfer has not come, over all links."""
        self.peer_frame_bytes_max = frames.FRAME_BYTES_LEAST
        self.peer_idle_ms = 0
        self.opened: Open | None = None
        self._settings = settings
        self._reader = FrameReader()
        self._pending: deque[Event] = deque()
        self._signed_in = False
        self._by_name: dict[tuple[str, bool], Link] = {}

    # -- in

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        if self.state is not ConnectionState.CLOSED:
            self._reader.feed(data)

    @property
    def buffered_bytes(self) -> int:
        """Bytes fed and not yet taken by `events`, and those of deliveries that are not whole."""
        return self._reader.buffered_bytes + self.partial_bytes

    def events(self) -> Iterator[Event]:
        """What the bytes mean, one at a time."""
        while (event := self.next_event()) is not None:
            yield event

    def next_event(self) -> Event | None:
        """The next of `events`; None until more is fed."""
        while not self._pending:
            if self.state is ConnectionState.CLOSED:
                return None
            try:
                found = self._reader.next()
                if found is None:
                    return None
                self._take(found)
            except AmqpError as error:
                self._reader.header_due = False
                self.close(error.condition, error.description)
        return self._pending.popleft()

    def abandon(self) -> None:
        """Let go of everything that came and is not whole: nobody will send the rest."""
        self._reader = FrameReader()
        for session in self.sessions.values():
            for link in session.by_handle.values():
                self._forget_parts(link)

    def _take(self, found: ProtocolHeader | Frame) -> None:
        if self.state is ConnectionState.CLOSING and isinstance(found, Frame):
            self._closing(found)
        elif isinstance(found, ProtocolHeader):
            self._header(found)
        elif found.kind == 1:
            self._sasl(found)
        elif found.start == found.end:
            pass  # a heartbeat
        else:
            self._frame(found)

    def _header(self, header: ProtocolHeader) -> None:
        name = {frames.AMQP: "amqp header", frames.SASL: "sasl header"}.get(header.id, "unknown header")
        if header.version != (1, 0, 0) or name == "unknown header" or (name == "amqp header" and not self._may_skip()):
            # The specification's way to say no: the header we would take, then the end.
            self.out.append(protocol_header(frames.SASL))
            self.state = ConnectionState.CLOSED
            self._pending.append(Closed(Error(Symbol(FRAMING_ERROR), "another protocol header is needed"), True))
            return
        self.state = next_connection(self.state, name)
        self.out.append(protocol_header(header.id))
        if header.id == frames.SASL:
            self._send_sasl(SaslMechanisms(self._settings.mechanisms))
        else:
            self._reader.frame_bytes_max = frames.FRAME_BYTES_MAX

    def _may_skip(self) -> bool:
        return self._signed_in or not self._settings.sasl

    def _sasl(self, found: Frame) -> None:
        body, _ = decode_frame(found.data, found.start, found.end, SASL_FRAMES)
        self.state = next_connection(self.state, type(body).__name__)
        if isinstance(body, SaslInit):
            self._pending.append(SigningIn(body.mechanism, body.initial_response or b"", body.hostname))
        elif isinstance(body, SaslResponse):
            self._pending.append(SigningIn("", body.response, None))

    def _closing(self, found: Frame) -> None:
        """After our close: only the peer's is of interest."""
        if found.kind == 0 and found.data[found.start : found.start + 3] == b"\x00\x53\x18":
            self.state = ConnectionState.CLOSED

    def _frame(self, found: Frame) -> None:
        body, payload = decode_frame(found.data, found.start, found.end, AMQP_FRAMES)
        usual = isinstance(body, Transfer) and self.state is ConnectionState.OPENED  # which it leaves as it is
        if not usual:
            self.state = next_connection(self.state, type(body).__name__)
            if self._of_connection(found.channel, body):
                return
        session = self.sessions.get(found.channel)
        if session is None:
            if isinstance(body, Detach | End | Flow | Disposition):
                return  # the Azure SDK for Python ends its session before it detaches the links of it
            raise AmqpError(NOT_ALLOWED, f"channel {found.channel} has no session")
        if session.ending and not isinstance(body, End):
            return
        try:
            self._in_session(session, body, found, payload)
        except LinkError as error:
            self._failed_link(session, body, error)
        except SessionError as error:
            self.end(session, error.condition, error.description)

    def _of_connection(self, channel: int, body: Composite) -> bool:
        """Take what is of no session; whether it was that."""
        if isinstance(body, Open):
            self._open(body)
        elif isinstance(body, Close):
            self._send(0, Close())
            self._pending.append(Closed(body.error, False))
        elif isinstance(body, Begin):
            self._begin(channel, body)
        else:
            return False
        return True

    # -- connection

    def _open(self, found: Open) -> None:
        if len(found.container_id) > NAME_CHARS_MAX:
            raise AmqpError(INVALID_FIELD, "the container-id is too long")
        size = found.max_frame_size
        if size is not None and size < frames.FRAME_BYTES_LEAST:
            raise AmqpError(INVALID_FIELD, f"max-frame-size of {size} is below {frames.FRAME_BYTES_LEAST}")
        self.peer_frame_bytes_max = min(size or frames.FRAME_BYTES_MAX, frames.FRAME_BYTES_MAX)
        self.peer_idle_ms = found.idle_time_out or 0
        self.opened = found
        answer = Open(
            self._settings.container_id, found.hostname, frames.FRAME_BYTES_MAX, CHANNEL_MAX,
            self._settings.idle_time_out_ms, properties={"product": "gridwire"},
        )  # fmt: skip
        self._send(0, answer)
        self._pending.append(Opened(found))

    def sasl_outcome(self, ok: bool) -> None:
        """Let in or not; who is not let in may only go."""
        self._send_sasl(SaslOutcome(0 if ok else 1))
        self._signed_in = ok
        if ok:
            self.state = ConnectionState.HEADER
            self._reader.header_due = True
        else:
            self.state = ConnectionState.CLOSED
            self._pending.append(Closed(None, True))

    def sasl_challenge(self, challenge: bytes) -> None:
        """Ask the client something."""
        self._send_sasl(SaslChallenge(challenge))
        self.state = ConnectionState.SASL_RESPONSE

    def close(self, condition: str = "", description: str = "") -> None:
        """End the connection, with a condition if something is wrong."""
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            self.state = ConnectionState.CLOSED
            return
        self.settle_accepted()
        error = Error(Symbol(condition), description) if condition else None
        if self.state in (ConnectionState.OPEN, ConnectionState.OPENED):
            if self.state is ConnectionState.OPEN:  # close may only follow open
                self._send(0, Open(self._settings.container_id, None, frames.FRAME_BYTES_MAX, CHANNEL_MAX))
            self._send(0, Close(error))
            self.state = ConnectionState.CLOSING
        else:
            self.state = ConnectionState.CLOSED
        self._pending.append(Closed(error, True))

    def shut_down(self) -> None:
        """Tell the peer to go and come back later."""
        self.close(CONNECTION_FORCED, "the hub is shutting down")

    def heartbeat(self) -> None:
        """Say that we are alive."""
        if self.state is ConnectionState.OPENED:
            self.out.append(EMPTY_FRAME)

    # -- sessions

    def _begin(self, channel: int, begin: Begin) -> None:
        if channel in self.sessions or channel > CHANNEL_MAX:
            raise AmqpError(NOT_ALLOWED, f"channel {channel} cannot begin a session")
        session = self.sessions[channel] = Session(channel, begin.next_outgoing_id, begin.incoming_window)
        answer = Begin(channel, session.next_outgoing_id, INCOMING_WINDOW, OUTGOING_WINDOW, HANDLE_MAX)
        self._send(channel, answer)

    def end(self, session: Session, condition: str, description: str) -> None:
        """End a session that went wrong."""
        session.ending = True
        self._drop_links(session)
        self._send(session.channel, End(Error(Symbol(condition), description)))

    def _drop_links(self, session: Session) -> None:
        for link in session.by_handle.values():
            self._forget(link)
            link.state = LinkState.DETACHED
            self._pending.append(Detached(link, False))
        session.by_handle.clear()

    def _forget(self, link: Link) -> None:
        self.links -= 1
        self._forget_parts(link)
        link.session.forget(link)
        if self._by_name.get((link.name, link.receives)) is link:
            del self._by_name[link.name, link.receives]

    def _in_session(self, session: Session, body: Composite, found: Frame, payload: int) -> None:
        if isinstance(body, Transfer):
            self._transfer(session, body, found, payload)
        elif isinstance(body, Flow):
            self._flow(session, body)
        elif isinstance(body, Disposition):
            if body.role is RECEIVER:
                last = body.first if body.last is None else body.last
                self._pending.append(Settling(session, body.first, last, body.state, bool(body.settled)))
        elif isinstance(body, Attach):
            self._attach(session, body)
        elif isinstance(body, Detach):
            self._detach(session, body)
        elif isinstance(body, End):
            del self.sessions[session.channel]
            if not session.ending:
                self._drop_links(session)
                self._send(session.channel, End())

    # -- links

    def _attach(self, session: Session, attach: Attach) -> None:
        if attach.handle > HANDLE_MAX:
            raise AmqpError(FRAMING_ERROR, f"handle {attach.handle} is above handle-max {HANDLE_MAX}")
        if attach.handle in session.by_handle:
            raise SessionError(HANDLE_IN_USE, f"handle {attach.handle} is in use")
        if self.links >= LINKS_MAX or len(attach.name) > NAME_CHARS_MAX:
            raise SessionError(LIMIT, f"more than {LINKS_MAX} links on a connection, or a name that is too long")
        link = session.by_handle[attach.handle] = from_attach(session, attach)
        self.links += 1
        other = self._by_name.get((link.name, link.receives))
        if other is not None:
            self.detach(other, LINK_STOLEN, "the link was attached again")
        self._by_name[link.name, link.receives] = link
        self._pending.append(Attached(link))

    def accept(
        self, link: Link, *, max_message_size: int = 0, offered: tuple[str, ...] = (),
        properties: dict[Any, Any] | None = None, source: Source | None = None, settled: bool = False,
        initial_delivery_count: int = 0,
    ) -> None:  # fmt: skip
        """Answer an attach. `settled`: we send settled. Source and target are echoed unless said otherwise."""
        attach = link.attach
        if link.state is not LinkState.ATTACHING or attach is None:
            return
        link.move("answered")
        link.max_message_size = max_message_size
        link.settled = settled if link.receives else attach.snd_settle_mode == SETTLED
        link.attach = None
        answer = self._answer(link, attach)
        answer.source = _as_kept(source or attach.source or Source())
        answer.target = _as_kept(cast(Target, attach.target) or Target())
        answer.max_message_size = max_message_size or None
        answer.offered_capabilities = offered or None
        answer.properties = properties
        if link.receives:
            link.delivery_count = initial_delivery_count
            answer.snd_settle_mode = SETTLED if settled else UNSETTLED
            answer.initial_delivery_count = initial_delivery_count
        self._send(link.session.channel, answer)

    def refuse(self, link: Link, condition: str, description: str) -> None:
        """Answer an attach with no: an attach without a node, then a detach that says why."""
        attach = link.attach
        if link.state is not LinkState.ATTACHING or attach is None:
            return
        answer = self._answer(link, attach)
        if link.receives:
            answer.target, answer.initial_delivery_count = cast(Target, attach.target), 0
        else:
            answer.source = attach.source
        self._send(link.session.channel, answer)
        self.detach(link, condition, description)

    def _answer(self, link: Link, attach: Attach) -> Attach:
        return Attach(
            link.name, link.handle, not attach.role, attach.snd_settle_mode or 0, attach.rcv_settle_mode or 0
        )  # fmt: skip

    def detach(self, link: Link, condition: str = "", description: str = "") -> None:
        """Detach a link for good, with a condition if something is wrong."""
        if link.state in (LinkState.ENDING, LinkState.DETACHED):
            return
        link.move("detached by us")
        self._forget_parts(link)
        link.session.forget(link)
        error = Error(Symbol(condition), description) if condition else None
        self._send(link.session.channel, Detach(link.handle, True, error))
        self._pending.append(Detached(link, True))

    def _detach(self, session: Session, detach: Detach) -> None:
        link = session.by_handle.pop(detach.handle, None)
        if link is None:
            raise SessionError(UNATTACHED_HANDLE, f"handle {detach.handle} has no link")
        self._forget(link)
        ended = link.state is LinkState.ENDING
        link.move("detached by peer")
        if not ended:
            self._send(session.channel, Detach(detach.handle, bool(detach.closed)))
            self._pending.append(Detached(link, bool(detach.closed)))

    def _forget_parts(self, link: Link) -> None:
        self.partial_bytes -= link.parts_size
        link.forget_parts()

    def _failed_link(self, session: Session, body: Composite, error: LinkError) -> None:
        link = session.by_handle.get(getattr(body, "handle", -1))
        if link is None:
            self.end(session, error.condition, error.description)
        else:
            self.detach(link, error.condition, error.description)

    def _link(self, session: Session, handle: int) -> Link:
        link = session.by_handle.get(handle)
        if link is None:
            raise SessionError(UNATTACHED_HANDLE, f"handle {handle} has no link")
        return link

    def _flow(self, session: Session, flow: Flow) -> None:
        session.take_flow(flow)
        while session.waiting and session.remote_window:
            self.out.append(session.waiting.popleft())
            session.sent(1)
        if flow.handle is None:
            if flow.echo:
                self._send(session.channel, session.flow())
            self._pending.append(Credited(session, None, bool(flow.echo)))
            return
        link = self._link(session, flow.handle)
        if link.state is LinkState.ENDING:
            return
        if link.receives:
            link.take_credit(flow)
        elif flow.delivery_count is not None and link.first is None:
            link.delivery_count = flow.delivery_count
        if flow.echo and not link.drain and link.alive:
            self._send(session.channel, session.flow(link))
        self._pending.append(Credited(session, link, bool(flow.echo)))

    def _transfer(self, session: Session, transfer: Transfer, found: Frame, payload: int) -> None:
        session.next_incoming_id = (session.next_incoming_id + 1) & 0xFFFFFFFF
        session.incoming += 1
        if session.incoming >= INCOMING_WINDOW // 2:
            self._send(session.channel, session.flow())
        link = self._link(session, transfer.handle)
        if link.receives:
            raise LinkError(NOT_ALLOWED, "a transfer on a link that receives")
        if link.state is LinkState.ENDING:
            return
        before = link.parts_size
        try:
            delivery = link.take_transfer(transfer, found.data, payload, found.end)
        finally:
            self.partial_bytes += link.parts_size - before
        if delivery is not None:
            self._pending.append(Delivered(link, delivery))

    def grant(self, link: Link, credit: int) -> None:
        """Let the peer send so many more."""
        if not link.alive:
            return
        link.credit = credit
        self._send(link.session.channel, link.session.flow(link))

    def drained(self, link: Link) -> None:
        """Use up a receiver's credit because there is nothing to send."""
        link.delivery_count = (link.delivery_count + link.credit) & 0xFFFFFFFF
        link.credit = 0
        self._send(link.session.channel, link.session.flow(link, drained=True))

    def settle(self, link: Link, delivery_id: int, state: State) -> None:
        """Tell the sender what became of one delivery."""
        if self._speaks(link.session):
            self._send(link.session.channel, Disposition(RECEIVER, delivery_id, delivery_id, True, state))

    def settle_accepted(self) -> None:
        """Tell of all that was accepted: ids in `settling` of each session, a range at a time."""
        for session in self.sessions.values():
            if session.settling and self._speaks(session):
                for first, last in ranges(session.settling):
                    self._send(session.channel, Disposition(RECEIVER, first, last, True, Accepted(), False))
                session.settling.clear()

    def _speaks(self, session: Session) -> bool:
        """Whether anything may still be said in a session."""
        return self.state is ConnectionState.OPENED and not session.ending

    def settled(self, session: Session, first: int, last: int, state: State) -> None:
        """Tell a receiver that its outcome was taken."""
        if self._speaks(session):
            self._send(session.channel, Disposition(SENDER, first, last, True, state))

    def send_transfer(self, link: Link, payload: bytes, tag: bytes, *, message_format: int = 0) -> int:
        """Send one message of any size; returns its delivery id. Takes credit without asking.

        Frames the window has no room for wait for the peer's next flow: ask `Session.room` before the next message.
        """
        session = link.session
        delivery_id = session.next_delivery_id
        session.next_delivery_id = (delivery_id + 1) & 0xFFFFFFFF
        link.delivery_count = (link.delivery_count + 1) & 0xFFFFFFFF
        link.credit = max(0, link.credit - 1)
        position = 0
        while True:
            transfer = Transfer(link.handle, delivery_id, tag, message_format, link.settled, True)
            room = self.peer_frame_bytes_max - frames.HEADER_BYTES - len(encode_composite(transfer))
            transfer.more = len(payload) - position > room
            piece = payload[position : position + room]
            whole = frame(session.channel, encode_composite(transfer) + piece)
            if session.room:
                self.out.append(whole)
                session.sent(1)
            else:
                session.waiting.append(whole)
                session.waiting_link = link
            position += room
            if not transfer.more:
                return delivery_id

    def _send(self, channel: int, body: Composite) -> None:
        self.out.append(frame(channel, encode_composite(body)))

    def _send_sasl(self, body: Composite) -> None:
        self.out.append(frame(0, encode_composite(body), 1))


Terminus = TypeVar("Terminus", Source, Target)


def _as_kept(terminus: Terminus) -> Terminus:
    """A terminus as it is served: nothing of it outlives its link, whatever durability was asked for."""
    if not terminus.durable and terminus.expiry_policy in (None, "session-end", "link-detach") and not terminus.timeout:
        return terminus
    return msgspec.structs.replace(terminus, durable=0, expiry_policy=Symbol("link-detach"), timeout=0)
