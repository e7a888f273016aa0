"""One client connection: bytes to frames, frames to handlers, answers back in the order of their requests.

    receive buffer -> frame -> dispatch -+- Produce: appended at once, many in flight ------+-> slots in order -> socket
                                         +- anything else: one at a time, as Kafka does it -+

Bytes arrive in a buffer that all connections of the head share; only what is left of them when the frames that are
whole have been taken moves to a buffer of the connection's own. So a connection that has nothing pending has none.

A slot is opened for each request that gets an answer; answers leave from the front of the queue only. While a
request other than Produce is being worked on, or too much is in flight, the next frame waits in the receive buffer;
when that is full, reading stops and TCP tells the client.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, Protocol, cast

import structlog

from gridwire.core.errors import RemoteProtocolError
from gridwire.heads.kafka import produce, rights
from gridwire.heads.kafka.context import (
    CONNECTION_BYTES_MAX,
    CONNECTION_REQUESTS_MAX,
    FRAME_STEP_BYTES,
    FRAME_STEP_BYTES_LEAST,
    HEAD_BYTES_MAX,
    RECEIVE_BYTES,
    RECEIVE_BYTES_LEAST,
    WRITE_BUFFER_BYTES,
    WRITE_PAUSE_BYTES,
    Answer,
    Context,
    Request,
)
from gridwire.heads.kafka.handlers import HANDLERS, unsupported_api_versions
from gridwire.heads.kafka.sasl import OPEN_TO_ALL, SIGN_IN_S
from gridwire.heads.kafka.sign_in import Admission, raw_frame_size
from gridwire.heads.tls import hang_up
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.primitives import Buffer

log = structlog.get_logger(__name__)


_WAITS: Final = frozenset({codec.FETCH, codec.JOIN_GROUP, codec.SYNC_GROUP})
"""Requests that may wait for somebody else, for minutes."""


_NOTHING: Final = bytearray()
"""The buffer of a connection with nothing in it."""

_MAPPED: Final = "::ffff:"
"""What an IPv4 address looks like on a socket that takes both."""


class Owner(Protocol):
    """What a connection needs of the head that owns it."""

    context: Context
    inflight_bytes: int
    shared: bytearray
    """Where bytes of any connection arrive; nobody's between two calls."""

    def opened(self, connection: Connection) -> bool:
        """Register; False when there are too many."""
        ...

    def closed(self, connection: Connection) -> None:
        """Forget."""
        ...

    def released(self, size: int) -> None:
        """So many bytes are no longer in flight."""
        ...

    def grant(self, connection: Connection, size: int) -> bool:
        """Whether there is room for so much more of a large frame; if not, `proceed` is called once there is."""
        ...

    def settled(self, connection: Connection) -> None:
        """The large frame is whole."""
        ...


class _Slot:
    """Place of one answer in the queue; `buffers` is None until it is known."""

    __slots__ = ("buffers",)

    def __init__(self) -> None:
        self.buffers: list[Buffer] | None = None


class Connection(asyncio.BufferedProtocol):
    """See the module. `moved_s` is when bytes last arrived or left, on the head's clock.

    `reserved_bytes` is the buffer of a large frame that arrives.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._context = owner.context
        self._buffer = _NOTHING
        self._start = self._end = 0
        self.reserved_bytes = 0
        self._large_s = 0.0
        self._slots: deque[_Slot] = deque()
        self._inflight_bytes = self._inflight = 0
        self._task: asyncio.Task[None] | None = None
        self._unsent_bytes = 0
        self._reading_paused = self._writing_paused = self._parsing = self._turn_due = False
        self._closing = self._eof = self._waits = self._lost = False
        self._unread_bytes = 0
        self._transport: asyncio.Transport
        self._loop: asyncio.AbstractEventLoop  # asking for it costs a system call each time on Python 3.11
        self._peer = self._peer_host = self._local_host = ""
        self._reading: dict[Any, int] = {}
        self._admission: Admission | None = None
        self._muted: asyncio.TimerHandle | None = None
        self.moved_s = self._context.clock.monotonic()

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, or close it when there are too many connections."""
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        peer = self._transport.get_extra_info("peername") or ("?", 0)
        local = self._transport.get_extra_info("sockname") or ("", 0)
        self._peer_host = str(peer[0]).removeprefix(_MAPPED)
        self._local_host = str(local[0]).removeprefix(_MAPPED)
        self._peer = f"{peer[0]}:{peer[1]}"
        if not self._owner.opened(self):
            self._closing = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_PAUSE_BYTES)
        access = self._context.access
        if access is not None:
            certificate = self._transport.get_extra_info("peercert")
            self._admission = Admission(access, self._peer, self._peer_host, self.moved_s, certificate)
            if self._admission.gate.failed:
                self.abort("too many connections of this identity")

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; pending appends finish on their own."""
        self._closing = self._lost = True
        self._context.backlog.resumed(self._transport)
        self._context.unsent_bytes -= self._unsent_bytes
        self._unsent_bytes = 0
        self._cancel_wait()
        if self._muted is not None:
            self._muted.cancel()
        if self._admission is not None:
            self._admission.close()
        self._slots.clear()
        self._buffer, self._start, self._end = _NOTHING, 0, 0
        self._release_reserved()
        self._owner.closed(self)

    def eof_received(self) -> bool:
        """The client is done sending: answer what is there, wait for nothing new, then close."""
        self._eof = True
        self._cancel_wait()
        self.proceed()
        return self._transport.get_extra_info("sslcontext") is None  # TLS cannot be half closed

    def pause_writing(self) -> None:
        """The client reads too slowly: take no further request."""
        self._writing_paused = True
        self._context.backlog.paused(self._transport)

    def resume_writing(self) -> None:
        """The client caught up."""
        self._writing_paused = False
        self._context.backlog.resumed(self._transport)
        self.proceed()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for what arrives next; reading is paused whenever there is none."""
        return memoryview(self._buffer or self._owner.shared)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes arrived."""
        self._buffer = self._buffer or self._owner.shared
        self._end += nbytes
        self._context.counters.bytes_in += nbytes
        self.moved_s = self._context.clock.monotonic()
        self.proceed()
        self._keep()

    def _keep(self) -> None:
        """Leave the shared buffer, and have room for more in our own."""
        pending = self._end - self._start
        if self._buffer is self._owner.shared:
            if pending:
                self._replace(bytearray(RECEIVE_BYTES_LEAST if pending < RECEIVE_BYTES_LEAST else RECEIVE_BYTES))
            else:
                self._buffer, self._start, self._end = _NOTHING, 0, 0
        elif self._end == len(self._buffer) == RECEIVE_BYTES_LEAST:
            self._replace(bytearray(RECEIVE_BYTES))
        self._balance_reading()

    # -- bytes to frames

    @property
    def partial(self) -> bool:
        """Whether a frame has begun to arrive and is not whole."""
        return self._ready() and self._end > self._start and self._room() > 0

    @property
    def large_since_s(self) -> float | None:
        """Since when a frame with a large buffer of its own arrives, on the head's clock; None if none does."""
        return self._large_s if self.reserved_bytes and self.partial else None

    @property
    def unread(self) -> bool:
        """Whether answers wait for the client to read."""
        return self._writing_paused

    def look(self) -> None:
        """Count what the client has read since the last look as movement."""
        before, self._unread_bytes = self._unread_bytes, self._transport.get_write_buffer_size()
        if self._unread_bytes < before:
            self.moved_s = self._context.clock.monotonic()

    @property
    def stranger(self) -> bool:
        """Whether it should have signed in by now and has not."""
        admission = self._admission
        if admission is None or admission.gate.identity is not None:
            return False
        return self._context.clock.monotonic() - admission.since_s > SIGN_IN_S

    @property
    def idle(self) -> bool:
        """Whether nothing is pending."""
        return not self._slots and not self._inflight and self._task is None

    def proceed(self) -> None:
        """Take the frames that are whole, as far as limits allow; then let reading go on if there is room."""
        if self._parsing:
            return
        self._parsing = True
        try:
            while self._ready() and self._take_frame():
                pass
        except RemoteProtocolError as error:
            self._stop_reading(str(error))
        finally:
            self._parsing = False
        if self._eof and self._ready():
            self._stop_reading("")
        self._balance_reading()

    def _ready(self) -> bool:
        return not (
            self._closing
            or self._task is not None
            or self._muted is not None
            or self._writing_paused
            or self._unsent_bytes >= WRITE_BUFFER_BYTES
            or self._inflight_bytes >= CONNECTION_BYTES_MAX
            or self._inflight >= CONNECTION_REQUESTS_MAX
        )

    def _take_frame(self) -> bool:
        """Dispatch the next frame if it is whole; otherwise see to room for the rest of it."""
        size = self._frame_size()
        if size is None or self._end - self._start < size:
            self._make_room(codec.HEADER_LEAST_BYTES if size is None else size)
            return False
        large = self.reserved_bytes > 0
        if large:
            self._owner.settled(self)
        self._reserve(size - self.reserved_bytes)
        self.reserved_bytes = 0
        self._inflight_bytes += size
        self._inflight += 1
        frame = self._buffer if large else self._buffer[self._start : self._start + size]
        self._start += size
        if self._start == self._end:
            self._buffer, self._start, self._end = _NOTHING, 0, 0
        try:
            self._dispatch(frame, size)
        except RemoteProtocolError:
            self._release(size)
            raise
        return True

    def _frame_size(self) -> int | None:
        admission = self._admission
        if admission is None:
            return codec.frame_size(self._buffer, self._start, self._end)
        if admission.gate.raw:
            return raw_frame_size(self._buffer, self._start, self._end)
        size = codec.frame_size(self._buffer, self._start, self._end)
        admission.check_size(size)
        return size

    def _make_room(self, size: int) -> None:
        have = self._end - self._start
        if size <= RECEIVE_BYTES:
            if size > len(self._buffer) and have:
                self._replace(bytearray(RECEIVE_BYTES))
            elif self._start + size > len(self._buffer):
                self._buffer[:have] = self._buffer[self._start : self._end]
                self._start, self._end = 0, have
        elif not self.reserved_bytes or self._end == len(self._buffer):
            thrifty = self._owner.inflight_bytes >= HEAD_BYTES_MAX // 4
            room = min(size, max(FRAME_STEP_BYTES_LEAST if thrifty else FRAME_STEP_BYTES, 2 * have))
            if not self._owner.grant(self, room - self.reserved_bytes):
                return
            if self.reserved_bytes == 0:
                self._large_s = self._context.clock.monotonic()
            self._reserve(room - self.reserved_bytes)
            self.reserved_bytes = room
            self._replace(bytearray(room))

    def _replace(self, buffer: bytearray) -> None:
        have = self._end - self._start
        buffer[:have] = memoryview(self._buffer)[self._start : self._end]
        self._buffer, self._start, self._end = buffer, 0, have

    def _reserve(self, size: int) -> None:
        self._owner.inflight_bytes += size

    def _release_reserved(self) -> None:
        reserved, self.reserved_bytes = self.reserved_bytes, 0
        self._owner.released(reserved)

    def _room(self) -> int:
        return len(self._buffer or self._owner.shared) - self._end

    def _balance_reading(self) -> None:
        """Read exactly while there is room to read into."""
        if self._eof or self._transport.is_closing():
            return
        stop = self._room() == 0 or self._closing
        if stop and not self._reading_paused:
            self._transport.pause_reading()
        elif self._reading_paused and not stop:
            self._transport.resume_reading()
        self._reading_paused = stop

    # -- frames to handlers

    def _dispatch(self, frame: bytearray, size: int) -> None:
        admission = self._admission
        if admission is not None and admission.gate.raw:
            answer = admission.raw(frame)
            self._answer(self._open_slot(), [answer], size)
            self._end_if_refused()
            return
        key, version, correlation_id = codec.read_fixed_header(frame)
        if admission is not None and key not in OPEN_TO_ALL and admission.gate.current() is None:
            raise RemoteProtocolError("nobody signed in, or the time of whoever did is up")
        api = codec.APIS.get(key)
        if api is not None:
            requests = self._context.counters.requests
            requests[api.name] = requests.get(api.name, 0) + 1
            if key == codec.API_VERSIONS and version > api.versions[1]:
                self._answer(self._open_slot(), [unsupported_api_versions(correlation_id)], size)
                return
        header = codec.read_header(frame)
        if key == codec.PRODUCE:
            self._produce(header, frame, size)
        else:
            self._handle(header, frame, size)

    def _produce(self, header: codec.RequestHeader, frame: bytearray, size: int) -> None:
        request = produce.decode(header, frame)
        slot = self._open_slot() if request.acks != 0 else None

        def finish(response: bytearray | None) -> None:
            if response is None and not self._closing:
                self._stop_reading("a produce without acknowledgement failed")
            self._answer(slot, [self._throttled(header, response or b"", size)], size)

        gate = None if self._admission is None else self._admission.gate
        produce.start(self._context, header, request, finish, gate)

    def _handle(self, header: codec.RequestHeader, frame: bytearray, size: int) -> None:
        body = codec.decode_request(header.key, header.version, frame, header.body_at)
        gate = None if self._admission is None else self._admission.gate
        request = Request(header, body, self._peer_host, self._local_host, self._reading, gate)
        slot = self._open_slot()
        try:
            handler = HANDLERS[header.key]
            if gate is None or header.key in OPEN_TO_ALL:
                result = handler(self._context, request)
            else:
                result = rights.guarded(handler, self._context, request)
            if not inspect.iscoroutine(result):
                assert isinstance(result, dict | list)
                self._answer(slot, self._encode(header, result), size)
                self._end_if_refused()
                return
        except Exception as error:
            self._broken(header, error, slot, size)
            return
        self._task = self._loop.create_task(self._work(result, header, slot, size))
        self._waits = header.key in _WAITS
        self._task.add_done_callback(lambda task: self._cancelled(task, result, slot, size))

    async def _work(
        self, handling: Coroutine[Any, Any, Answer], header: codec.RequestHeader, slot: _Slot, size: int
    ) -> None:
        """Wait for the answer and queue it in the same step: the next fetch must see how much is unsent."""
        try:
            answer = self._metered(header, self._encode(header, await handling), size)
        except Exception as error:
            self._task = None
            self._broken(header, error, slot, size)
        else:
            self._task = None
            self._answer(slot, answer, size)

    def _cancelled(
        self, task: asyncio.Task[None], handling: Coroutine[Any, Any, Answer], slot: _Slot, size: int
    ) -> None:
        if task.cancelled():
            handling.close()
            self._task = None
            self._answer(slot, [], size)

    # -- whose they are

    def _end_if_refused(self) -> None:
        """A refused sign-in is answered, and the connection ends."""
        if self._admission is not None and not self._admission.settle():
            self._stop_reading("sign-in failed")

    def _throttled(self, header: codec.RequestHeader, frame: bytes | bytearray, size: int) -> bytes | bytearray:
        """A produce's answer, with the pause its sender is asked for if he used too much."""
        if self._admission is not None and isinstance(frame, bytearray):
            self._mute(self._admission.used(header, frame, size, len(frame)))
        return frame

    def _metered(self, header: codec.RequestHeader, buffers: list[Buffer], size: int) -> list[Buffer]:
        if self._admission is not None:
            first = buffers[0] if buffers and isinstance(buffers[0], bytearray) else None
            self._mute(self._admission.used(header, first, size, sum(map(len, buffers))))
        return buffers

    def _mute(self, wait_s: float) -> None:
        """Take no request for a while: whoever does not heed the pause he is told is paused all the same."""
        if wait_s > 0 and self._muted is None and not self._closing:
            self._muted = self._loop.call_later(wait_s, self._unmute)

    def _unmute(self) -> None:
        self._muted = None
        self.proceed()

    def _cancel_wait(self) -> None:
        """Nobody is there to be answered: end a long poll or a join. Anything else runs to its end."""
        if self._task is not None and self._waits:
            self._task.cancel()

    def _encode(self, header: codec.RequestHeader, answer: Answer) -> list[Buffer]:
        if isinstance(answer, list):
            return answer
        return [codec.encode_response(header.key, header.version, header.correlation_id, answer)]

    def _broken(self, header: codec.RequestHeader, error: BaseException, slot: _Slot, size: int) -> None:
        """A handler failed in a way it has no answer for: a defect of ours. The connection ends, the client retries."""
        name = codec.APIS[header.key].name
        log.error("kafka_request_failed", peer=self._peer, api=name, version=header.version, exc_info=error)
        self._stop_reading(f"{name} failed")
        self._answer(slot, [], size)

    # -- answers

    def _open_slot(self) -> _Slot:
        slot = _Slot()
        self._slots.append(slot)
        return slot

    def _answer(self, slot: _Slot | None, buffers: list[Buffer], size: int) -> None:
        """Fill a slot and give the request's bytes free; what can be sent is sent at the end of this turn of the loop.

        A group of appends is acknowledged at once: one system call for all their answers instead of one each.
        """
        self._release(size)
        if slot is not None and not self._lost:
            slot.buffers = buffers
            self._unsent(sum(map(len, buffers)))
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Send the answers that are due, then take further requests."""
        self._turn_due = False
        self._send()
        self.proceed()
        self._close_if_done()

    def _send(self) -> None:
        """Send whatever is at the front of the queue."""
        out: list[Buffer] = []
        slots = self._slots
        while slots and slots[0].buffers is not None:
            out += slots.popleft().buffers or ()
        if not out or self._transport.is_closing():
            return
        size = sum(map(len, out))
        self._unsent(-size)
        self._context.counters.bytes_out += size
        self.moved_s = self._context.clock.monotonic()
        if size <= RECEIVE_BYTES:
            self._transport.write(b"".join(out))
        else:
            self._transport.writelines(out)

    def _unsent(self, change: int) -> None:
        self._unsent_bytes += change
        self._context.unsent_bytes += change

    def _release(self, size: int) -> None:
        self._inflight_bytes -= size
        self._inflight -= 1
        self._owner.released(size)

    # -- the end

    def drain(self) -> None:
        """Take no further request; close once everything pending is answered."""
        self._stop_reading("")

    def abort(self, reason: str) -> None:
        """Close at once."""
        self._complain(reason)
        self._closing = True
        self._transport.abort()

    def _stop_reading(self, reason: str) -> None:
        if not self._closing:
            self._complain(reason)
        self._closing = True
        self._balance_reading()
        self._close_if_done()

    def _complain(self, reason: str) -> None:
        if reason:
            self._context.counters.errors += 1
            log.warning("kafka_connection_closed", peer=self._peer, reason=reason)

    def _close_if_done(self) -> None:
        if self._closing and self.idle and not self._turn_due:
            hang_up(self._transport)
