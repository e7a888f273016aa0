"""One HTTP connection: uvicorn's fast protocol, with the limits it leaves out.

Added: a connection limit, a size and a time limit for request heads, an end to clients that stop reading, one by one
and all together, and an end to bodies that go on after their request was refused.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gridwire.heads.backlog import Backlog
from gridwire.heads.http.guard import Guard
from gridwire.heads.http.options import HttpCounters, HttpLimits
from gridwire.heads.http.sign_in import CERTIFICATE
from gridwire.heads.http.upgrade import Upgrades, answer
from gridwire.heads.tls import certificate_names, hang_up


class HubConnection(HttpToolsProtocol):
    """Subclass with its class variables set, see `connection_class`."""

    limits: ClassVar[HttpLimits]
    counters: ClassVar[HttpCounters]
    backlog: ClassVar[Backlog]
    guard: ClassVar[Guard]
    upgrades: ClassVar[Upgrades]

    _certificate: tuple[str, ...] = ()
    _heading = True
    _heads = 0
    _head_bytes = 0
    _discarded_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _discard_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or close it at once when there are too many."""
        super().connection_made(transport)
        self.counters.connections += 1
        if self.counters.connections > self.limits.connections_max:
            transport.abort()
            return
        certificate = transport.get_extra_info("peercert")
        self._certificate = tuple(certificate_names(certificate)) if certificate else ()
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._let_go()
        super().connection_lost(exc)

    def _let_go(self) -> None:
        self.counters.connections -= 1
        self.backlog.resumed(self.transport)
        for timer in (self._head_timer, self._stall_timer, self._discard_timer):
            if timer is not None:
                timer.cancel()

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() == b"websocket" and self._path() in self.upgrades

    def _path(self) -> str:
        """Path of the request target, which may be a whole URL: Azure's SDK for Java asks for WebSockets so."""
        target = self.url.partition(b"?")[0].decode("latin-1")
        if target.startswith("/"):
            return target
        _, _, rest = target.partition("://")
        return "/" + rest.partition("/")[2]

    def _unsupported_upgrade_warning(self) -> None:
        """The request is answered as if it had not asked."""

    def handle_websocket_upgrade(self) -> None:
        """The connection goes on as what its path stands for, and is no longer ours."""
        head, protocol = answer(self.scope, self.upgrades[self._path()], self.guard)
        self.transport.write(head)
        if protocol is None:
            self.transport.close()
            return
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self._let_go()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)

    def data_received(self, data: bytes) -> None:
        """Parse; a head that is too large or a refused body that does not end closes the connection."""
        size = len(data)
        was_heading, heads = self._heading, self._heads
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return
        if was_heading and heads == self._heads:  # the chunk lies wholly inside a head, or before one
            self._still_heading(size)
        elif self.cycle is not None and self.cycle.response_complete:
            self._discarded_bytes += size
            if self._discarded_bytes > self.limits.discard_bytes_max:
                self.transport.close()

    def _still_heading(self, size: int) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self.transport.close)
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes_max:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins: whatever the client's certificate says goes with it."""
        super().on_message_begin()
        if self._certificate:
            self.scope[CERTIFICATE] = self._certificate  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._heading = False
        self._heads += 1
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole; what follows is the next head."""
        self._heading = True
        self._discarded_bytes = 0
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; if the body is not in yet it was refused, and may only go on for a while."""
        super().on_response_complete()
        if self.transport.is_closing():
            hang_up(self.transport)
        elif not self._heading:
            self._discard_timer = self.loop.call_later(self.limits.discard_s, self.transport.close)

    def shutdown(self) -> None:
        """The hub stops: close now when idle, after the answer otherwise."""
        super().shutdown()
        if self.transport.is_closing():
            hang_up(self.transport)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self.backlog.paused(self.transport)
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.limits.write_stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        self.backlog.resumed(self.transport)
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()


def connection_class(
    limits_: HttpLimits, counters_: HttpCounters, guard_: Guard, upgrades_: Upgrades
) -> type[HubConnection]:
    """The protocol class uvicorn is to use."""

    class Connection(HubConnection):
        limits = limits_
        counters = counters_
        guard = guard_
        upgrades = upgrades_
        backlog = Backlog(limits_.unread_bytes_max)

    return Connection
