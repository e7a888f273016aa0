"""One AMQP connection of the head: a transport, the engine, and what is served on each of its links.

bytes -> engine -> events -> Sender | Receiver | Requests | Replies -> engine.out -> bytes, once a turn of the loop
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol, cast

import structlog

from gridwire.auth.model import Action
from gridwire.broker.port import HubInfo
from gridwire.core.errors import GridwireError, NotAllowed, NotAuthenticated
from gridwire.heads.amqp.context import (
    ARRIVING_BYTES_MAX,
    HEAD_BYTES_MAX,
    IDLE_TIME_OUT_MS,
    PENDING_BYTES_MAX,
    SIGN_IN_S,
    SILENCE_S,
    WRITE_BUFFER_BYTES,
    Context,
)
from gridwire.heads.amqp.receivers import Receiver
from gridwire.heads.amqp.requests import Replies, Requests
from gridwire.heads.amqp.rights import Keyring
from gridwire.heads.amqp.senders import Sender
from gridwire.heads.tls import hang_up
from gridwire.wire.amqp import connection as engine
from gridwire.wire.amqp.addresses import DEFAULT_GROUP, Start, parse_address, parse_filter
from gridwire.wire.amqp.connection import ConnectionSettings
from gridwire.wire.amqp.errors import (
    LIMIT,
    NOT_ALLOWED,
    NOT_IMPLEMENTED,
    UNAUTHORIZED,
    LinkError,
    condition_of,
)
from gridwire.wire.amqp.link import Delivery, Link, Session
from gridwire.wire.amqp.performatives import SETTLED, Attach, Source, Target
from gridwire.wire.amqp.states import ConnectionState, LinkState
from gridwire.wire.amqp.types import Symbol

log = structlog.get_logger(__name__)

MECHANISMS: Final = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")
OPEN_MECHANISMS: Final = frozenset({"MSSBCBS", "ANONYMOUS"})
"""They prove nothing: with sign-in, whoever chose one may only put tokens to `$cbs`."""

METRIC: Final = "com.microsoft:enable-receiver-runtime-metric"
EPOCH: Final = "com.microsoft:epoch"

WAITING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Deliveries kept while a link's hub is being created."""

Node = Sender | Receiver | Requests | Replies


class Head(Protocol):
    """What a connection needs of the head that owns it."""

    context: Context

    def opened(self, connection: Connection) -> bool:
        """Register; False when there are too many."""
        ...

    def closed(self, connection: Connection) -> None:
        """Forget."""
        ...

    def turn_of(self, hub: HubInfo) -> int:
        """Partition whose turn it is."""
        ...

    def wait_for_room(self, connection: Connection) -> None:
        """Call `proceed` once less is under way."""
        ...

    def released(self) -> None:
        """Less is under way."""
        ...


class Connection(asyncio.Protocol):
    """See the module."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.context = head.context
        access = self.context.access
        self.engine = engine.Connection(
            ConnectionSettings(self.context.container_id, MECHANISMS, access is not None, IDLE_TIME_OUT_MS)
        )
        self.keyring: Keyring | None = None
        self.azure = False
        """Whether tokens were put to `$cbs`, as the Azure SDKs do."""
        self.writing_paused = False
        self.moved_s = self.context.clock.monotonic()
        self._sent_s = self.moved_s
        self._since_s = self.moved_s
        self._transport: asyncio.Transport
        self._peer = "?"
        self._events: Any = None
        self._pending_bytes = 0
        self._flush_due = self._reading_paused = self._closing = self._taking = False
        self._muted: asyncio.TimerHandle | None = None
        self._waiting: dict[Link, list[Delivery]] = {}
        self._waiting_bytes = 0
        self.unsettled = 0
        """Deliveries whose outcome is not known, over all links."""
        self._arriving_bytes = 0
        self._moved = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, or close it when there are too many connections."""
        self._transport = cast(asyncio.Transport, transport)
        peer = self._transport.get_extra_info("peername") or ("?", 0)
        self._peer = f"{peer[0]}:{peer[1]}"
        if not self.head.opened(self):
            self._closing = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self.context.access is not None:
            self.keyring = Keyring(self.context.access, self._peer, self._transport.get_extra_info("peercert"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; appends under way finish on their own."""
        self._closing = True
        for session in self.engine.sessions.values():
            for link in session.by_handle.values():
                self._leave(link)
        for task in list(self._tasks):
            task.cancel()
        if self._muted is not None:
            self._muted.cancel()
        if self.keyring is not None:
            self.keyring.close()
        self.context.pending_bytes -= self._pending_bytes
        self._pending_bytes = 0
        self.context.backlog.resumed(self._transport)
        self.context.arriving.holds(self, 0, moved=False)
        self.engine.abandon()
        self.head.closed(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.moved_s = self.context.clock.monotonic()
        self.context.counters.bytes_in += len(data)
        self._charge_quota(len(data), 0)
        self.engine.feed(data)
        self.proceed()

    def eof_received(self) -> bool:
        """The peer is done; so are we."""
        return False

    def pause_writing(self) -> None:
        """The peer reads too slowly: receivers wait, and nothing more is taken that would have to be answered."""
        self.writing_paused = True
        self.context.backlog.paused(self._transport)

    def resume_writing(self) -> None:
        """It has caught up."""
        self.writing_paused = False
        self.context.backlog.resumed(self._transport)
        self.proceed()
        self.wake_receivers()

    # -- in

    def proceed(self) -> None:
        """Take what has come as far as limits allow."""
        if self._taking:
            return
        self._taking = True
        try:
            self._take()
        finally:
            self._taking = False
        self._bound_arriving()
        self.flush()
        self._balance()

    def _take(self) -> None:
        while not self._closing and not self._full():
            event = self.engine.next_event()
            if event is None:
                return
            try:
                _HANDLERS[type(event)](self, event)
            except Exception:
                log.exception("amqp_connection_failed", peer=self._peer)
                self.engine.close("amqp:internal-error", "the hub failed; its log says more")

    def _full(self) -> bool:
        if self.writing_paused or self._muted is not None or self._pending_bytes >= PENDING_BYTES_MAX:
            return True
        return self.context.pending_bytes >= HEAD_BYTES_MAX

    def _bound_arriving(self) -> None:
        """Say how much waits for the rest of its frame or message. What only waits for its turn does not count."""
        size = self.engine.buffered_bytes
        if self._closing or self._full() or not (size or self._arriving_bytes):
            return
        if size > ARRIVING_BYTES_MAX:
            self.engine.close(LIMIT, f"{size} bytes wait for the rest of their messages")
            self._over()
            return
        self._arriving_bytes = size
        self.context.arriving.holds(self, size, moved=self._moved)
        self._moved = False

    def _balance(self) -> None:
        """Read exactly while there is room."""
        if self._closing or self._transport.is_closing():
            return
        stop = self._full()
        if stop and self.context.pending_bytes >= HEAD_BYTES_MAX:
            self.head.wait_for_room(self)
        if stop and not self._reading_paused:
            self._transport.pause_reading()
        elif self._reading_paused and not stop:
            self._transport.resume_reading()
        self._reading_paused = stop

    def charge(self, size: int) -> None:
        """So many bytes more are under way to disk."""
        self._pending_bytes += size
        self.context.pending_bytes += size

    def release(self, size: int) -> None:
        """They are there, or failed."""
        if self._closing:
            return
        self._pending_bytes -= size
        self.context.pending_bytes -= size
        self.head.released()
        if self._reading_paused:
            self.flush_soon()

    def _charge_quota(self, bytes_in: int, bytes_out: int) -> None:
        if self.keyring is None:
            return
        wait_s = self.keyring.used(bytes_in, bytes_out)
        if wait_s > 0 and self._muted is None:
            self._muted = asyncio.get_running_loop().call_later(wait_s, self._unmute)

    def _unmute(self) -> None:
        self._muted = None
        self.proceed()
        self.wake_receivers()

    # -- out

    def flush_soon(self) -> None:
        """Send at the end of this turn: a group of appends is acknowledged with one write."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._flush_due = False
        if not self._closing:
            self.proceed()

    def flush(self) -> None:
        """Send what there is."""
        self.engine.settle_accepted()
        out = self.engine.out
        if not out or self._transport.is_closing():
            out.clear()
            return
        data = b"".join(out)
        out.clear()
        self._sent_s = self.context.clock.monotonic()
        self.context.counters.bytes_out += len(data)
        self._charge_quota(0, len(data))
        self._transport.write(data)

    def sweep(self, now_s: float) -> None:
        """Once a second: heartbeats, silence, links whose right is over."""
        state = self.engine.state
        if state is not ConnectionState.OPENED:
            if now_s - self._since_s > SIGN_IN_S:
                self.abort("no open came in time")
            return
        if self.engine.peer_idle_ms and now_s - self._sent_s > self.engine.peer_idle_ms / 2000:
            self.engine.heartbeat()
        silence_s = now_s - self.moved_s
        if silence_s > SILENCE_S or (not self.engine.links and silence_s > 2 * IDLE_TIME_OUT_MS / 1000):
            self.engine.close("amqp:resource-limit-exceeded", f"nothing came for {silence_s:.0f} s")
            self._over()
            return
        if self.keyring is not None:
            for node in self._nodes():
                if not node.allowed():
                    node.end(UNAUTHORIZED, "the token of this link is over, or its right is gone: put a new one")
        self.proceed()

    def _nodes(self) -> list[Node]:
        return [
            link.node for session in self.engine.sessions.values() for link in session.by_handle.values() if link.node
        ]

    def wake_receivers(self) -> None:
        """Let receivers look again whether there is room."""
        for node in self._nodes():
            node.credited()

    # -- events

    def _signing_in(self, event: engine.SigningIn) -> None:
        self.engine.sasl_outcome(self._signs_in(event.mechanism, event.response))

    def _signs_in(self, mechanism: str, response: bytes) -> bool:
        if mechanism in OPEN_MECHANISMS or (self.keyring is None and mechanism in MECHANISMS):
            return True
        if self.keyring is None:
            return False
        if mechanism == "EXTERNAL":
            return self.keyring.certified
        if mechanism != "PLAIN":
            return False
        try:
            self.keyring.sign_in_plain(response)
        except NotAuthenticated:
            return False
        return True

    def _opened(self, event: engine.Opened) -> None:
        """Nothing more to do: it is answered."""

    def _attached(self, event: engine.Attached) -> None:
        link = event.link
        self.context.counters.links += 1
        try:
            node = self._node(link)
            if asyncio.iscoroutine(node):
                self._waiting[link] = []
                self.run(self._later(link, node))
            else:
                self._accept(link, node)
        except GridwireError as error:
            self._refuse(link, error)

    def _refuse(self, link: Link, error: GridwireError) -> None:
        self._take_waiting(link)
        condition, description = condition_of(error)
        self.context.counters.errors += 1
        self.engine.refuse(link, condition, description)

    async def _later(self, link: Link, coming: Coroutine[Any, Any, Node]) -> None:
        try:
            node = await coming
            if link.state in (LinkState.ENDING, LinkState.DETACHED):
                self._take_waiting(link)
                return
            self._accept(link, node)
            for delivery in self._take_waiting(link):
                cast(Any, node).deliver(delivery)
        except GridwireError as error:
            self._refuse(link, error)
        self.flush()

    def _take_waiting(self, link: Link) -> list[Delivery]:
        """What came before the link was answered."""
        waiting = self._waiting.pop(link, [])
        self._waiting_bytes -= sum(delivery.size for delivery in waiting)
        return waiting

    def _node(self, link: Link) -> Node | Coroutine[Any, Any, Node]:
        """What an attach asks for. Raises GridwireError."""
        attach = link.attach
        assert attach is not None
        return self._source(link, attach) if link.receives else self._target(link, attach)

    def _target(self, link: Link, attach: Attach) -> Node | Coroutine[Any, Any, Node]:
        target = attach.target
        if target is None:
            raise LinkError("amqp:invalid-field", "the link has no target")
        if not isinstance(target, Target):
            raise LinkError(NOT_IMPLEMENTED, "transactions are not served over AMQP")
        if target.dynamic:
            raise LinkError(NOT_IMPLEMENTED, "nodes are not made for senders: name a hub")
        address = parse_address(target.address)
        if address.node:
            return Requests(self, link, address.node)
        if address.group:
            raise LinkError(NOT_ALLOWED, "a consumer group cannot be sent to")
        if not self.may_send(address.hub):
            raise LinkError(UNAUTHORIZED, f"sending to {address.hub!r} takes Send")
        return self._sender(link, address.hub, address.partition, address.publisher)

    async def _sender(self, link: Link, name: str, partition: int, publisher: str) -> Node:
        hub = await self.context.writable(name)
        if hub.internal or name.startswith("__"):
            raise NotAllowed(f"hub {name!r} is the platform's own: clients may read it, not write it")
        self.context.partition(name, partition)
        return Sender(self, link, hub, partition, publisher)

    def _source(self, link: Link, attach: Attach) -> Node:
        source = attach.source
        if source is None:
            raise LinkError("amqp:invalid-field", "the link has no source")
        if source.dynamic:
            return Replies(self, link, "", f"$replies/{link.session.channel}/{link.handle}")
        address = parse_address(source.address)
        if address.node:
            own = attach.target.address if isinstance(attach.target, Target) else ""
            return Replies(self, link, address.node, own if isinstance(own, str) else "")
        group = address.group or DEFAULT_GROUP
        if address.publisher:
            raise LinkError(NOT_ALLOWED, "a publisher cannot be received from")
        if not self.may_receive(address.hub, group):
            raise LinkError(UNAUTHORIZED, f"receiving from {address.hub!r} takes Listen")
        start = parse_filter(source.filter)
        hub = self.context.partition(address.hub, address.partition)
        if address.partition < 0 and (topic := _copies(source)) is not None:
            return Receiver(self, link, hub, -1, group, start or (Start("latest") if topic else None), shares=False)
        if address.partition < 0:
            commits = start is None
            return Receiver(self, link, hub, -1, group, start or Start("committed"), commits=commits)
        properties = attach.properties or {}
        metric = METRIC in (attach.desired_capabilities or ())
        node = Receiver(self, link, hub, address.partition, group, start, metric=metric)
        epoch = properties.get(EPOCH)
        key = (address.hub, group, address.partition)
        self.context.readers.enter_partition(key, epoch if type(epoch) is int else None, node)
        return node

    def _accept(self, link: Link, node: Node) -> None:
        link.node = node
        attach = link.attach
        assert attach is not None
        if isinstance(node, Receiver):
            whole = not node.one_partition
            settled = not whole or attach.snd_settle_mode == SETTLED
            offered = (METRIC,) if node.metric else ()
            self.engine.accept(link, settled=settled, offered=offered, properties=attach.properties)
            node.start()
            if whole and node.shares:
                self.context.readers.enter_hub(node.hub.name, node.group, node)
        elif isinstance(node, Replies):
            source = attach.source
            if source is not None and source.dynamic:
                source = Source(node.address, dynamic=True, expiry_policy=Symbol("link-detach"))
            self.engine.accept(link, settled=True, source=source)
        else:
            self.engine.accept(link, max_message_size=node.max_message_size, properties=attach.properties)
            node.start()

    def _delivered(self, event: engine.Delivered) -> None:
        link, delivery = event.link, event.delivery
        self._moved = True
        if link.node is not None:
            link.node.deliver(delivery)
            return
        waiting = self._waiting.get(link)
        if waiting is None:
            return
        self._waiting_bytes += delivery.size
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self.engine.close(LIMIT, "too much was sent before its link was answered")
            return
        waiting.append(delivery)

    def _credited(self, event: engine.Credited) -> None:
        if event.link is None:
            self.wake_receivers()
        elif event.link.node is not None:
            event.link.node.credited()

    def _settling(self, event: engine.Settling) -> None:
        for link in list(event.session.by_handle.values()):
            if link.receives and link.node is not None:
                link.node.settle(event.first, event.last, event.state, event.settled)

    def _detached(self, event: engine.Detached) -> None:
        self._leave(event.link)

    def _leave(self, link: Link) -> None:
        self._take_waiting(link)
        node, link.node = link.node, None
        if node is not None:
            node.close()

    def _closed(self, event: engine.Closed) -> None:
        if event.error is not None:
            self.context.counters.errors += 1
            log.warning("amqp_connection_closed", peer=self._peer, condition=str(event.error.condition),
                        reason=event.error.description, ours=event.ours)  # fmt: skip
        self._over()

    def _over(self) -> None:
        """Send what is left and close."""
        self.flush()
        self._closing = True
        hang_up(self._transport)

    # -- for nodes

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that takes a while; it ends with the connection."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("amqp_request_failed", peer=self._peer, exc_info=task.exception())

    def replies_for(self, session: Session, node: str, reply_to: str) -> Replies | None:
        """The link on which a request of a session is to be answered."""
        links = [link.node for link in session.by_handle.values() if isinstance(link.node, Replies)]
        if reply_to:
            others = [each for each in self._nodes() if isinstance(each, Replies)]
            for each in (*links, *others):
                if reply_to in each.names:
                    return each
        same = [each for each in links if each.serves == node]
        return same[-1] if same else (links[-1] if links else None)

    def may_send(self, hub: str) -> bool:
        """Whether whoever it belongs to may send there."""
        return self.keyring is None or self.keyring.may((Action.SEND, hub))

    def may_receive(self, hub: str, group: str) -> bool:
        """Whether whoever it belongs to may read there."""
        return self.keyring is None or self.keyring.may((Action.READ, hub), (Action.USE_GROUP, group))

    # -- the end

    def drain(self) -> None:
        """Take nothing new; close once what came is on disk and told."""
        self._closing_soon()

    def _closing_soon(self) -> None:
        if not self._closing and not self.idle:
            return
        if not self._closing:
            self.engine.shut_down()
            self._over()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way to disk."""
        return self._pending_bytes == 0

    def abort(self, reason: str) -> None:
        """Close at once."""
        if reason:
            self.context.counters.errors += 1
            log.warning("amqp_connection_closed", peer=self._peer, reason=reason)
        self._closing = True
        self._transport.abort()


_HANDLERS: Final[dict[type, Any]] = {
    engine.SigningIn: Connection._signing_in,
    engine.Opened: Connection._opened,
    engine.Attached: Connection._attached,
    engine.Delivered: Connection._delivered,
    engine.Credited: Connection._credited,
    engine.Settling: Connection._settling,
    engine.Detached: Connection._detached,
    engine.Closed: Connection._closed,
}


def _copies(source: Source) -> bool | None:
    """Whether a source wants a copy of everything: True from now on (a topic), False from the start (a browser).

    None: it shares the events with the others of its group. Raises LinkError.
    """
    topic = "topic" in (source.capabilities or ())
    if not topic and source.distribution_mode != "copy":
        return None
    if source.durable:
        raise LinkError(
            NOT_IMPLEMENTED, "durable subscriptions are consumer groups here: receive from HUB/ConsumerGroups/GROUP"
        )
    return topic
