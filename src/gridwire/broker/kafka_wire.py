"""One connection to one Kafka broker: TLS, the versions it speaks, SASL, and requests answered in order.

A response is received into the buffer it is decoded from, so record batches are never copied on their way in. What
goes wrong on a connection ends it, and everybody who waits is told `Disconnected`; whoever asks again gets a new one.

Versions are fixed per API: the newest that is served by Kafka 2.8 up to the present, where that carries what we need.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_sign_in import SASL_AUTHENTICATE, SASL_HANDSHAKE, SignIn
from gridwire.core.errors import GridwireError, RemoteProtocolError, Unavailable, Unsupported
from gridwire.core.limits import MIB, REQUEST_BYTES_MAX
from gridwire.wire.kafka.codec import APIS, decode_response, encode_request
from gridwire.wire.kafka.compiler import Struct

CLIENT_ID: Final = "gridwire"
CONNECT_S: Final = 10.0
"""Connecting, TLS and signing in together."""

ANSWER_S: Final = 40.0
"""An answer that takes longer does not come: a broker that hangs looks like this."""

RESPONSE_BYTES_MAX: Final = REQUEST_BYTES_MAX + MIB
"""One answer; a broker answers a fetch with no more than we ask for, or one batch."""

REAUTHENTICATE_SHARE: Final = 0.8
"""A connection is replaced when this share of the session that the broker grants is over."""

(
    PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR, DESCRIBE_GROUPS,
    LIST_GROUPS, API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS, INIT_PRODUCER_ID,
    DESCRIBE_CONFIGS, DESCRIBE_LOG_DIRS, CREATE_PARTITIONS, DELETE_GROUPS,
    INCREMENTAL_ALTER_CONFIGS, OFFSET_DELETE, CONSUMER_GROUP_DESCRIBE,
) = (0, 1, 2, 3, 8, 9, 10, 15, 16, 18, 19, 20, 21, 22, 32, 35, 37, 42, 44, 47, 69)  # fmt: skip

VERSIONS: Final[Mapping[int, tuple[int, int]]] = {
    PRODUCE: (7, 9), FETCH: (11, 12), LIST_OFFSETS: (5, 7), METADATA: (10, 12), OFFSET_COMMIT: (6, 8),
    OFFSET_FETCH: (8, 8), FIND_COORDINATOR: (3, 3), DESCRIBE_GROUPS: (4, 5), LIST_GROUPS: (3, 5),
    SASL_HANDSHAKE: (1, 1), API_VERSIONS: (0, 0), CREATE_TOPICS: (7, 7), DELETE_TOPICS: (4, 5),
    DELETE_RECORDS: (1, 2), INIT_PRODUCER_ID: (2, 4), DESCRIBE_CONFIGS: (2, 4), DESCRIBE_LOG_DIRS: (1, 4),
    SASL_AUTHENTICATE: (1, 2), CREATE_PARTITIONS: (1, 3), DELETE_GROUPS: (1, 2),
    INCREMENTAL_ALTER_CONFIGS: (0, 1), OFFSET_DELETE: (0, 0), CONSUMER_GROUP_DESCRIBE: (0, 1),
}  # fmt: skip
"""First and last version of each API that we ask for."""

_SIZE = struct.Struct(">i")


class Disconnected(Unavailable):
    """The connection ended before the answer came: what was asked may have been done, or not."""


@dataclass(frozen=True, slots=True)
class _Asked:
    correlation_id: int
    key: int
    version: int
    answer: asyncio.Future[Struct]


class Connection(asyncio.BufferedProtocol):
    """Make one with `connect`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._asked: deque[_Asked] = deque()
        self._correlation_id = 0
        self._versions: dict[int, tuple[int, int]] = {}
        self._buffer = bytearray(4)
        self._filled = 0
        self._ended: str | None = None
        self.expires_s: float | None = None
        """On the loop's clock: when the session that SASL gave must be renewed."""

    @classmethod
    async def connect(cls, host: str, port: int, address: KafkaAddress, ssl: Any = None) -> Connection:
        """A connection that is signed in.

        Args:
            ssl: the address's TLS context, where connections are encrypted.

        Raises:
            Unavailable: nobody answers there. NotAuthenticated: the cluster does not take our credentials.
            Unsupported: it is too old.
        """
        loop = asyncio.get_running_loop()
        where = f"{host}:{port}"
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await loop.create_connection(cls, host, port, ssl=ssl)
                await connection._greet(address, where)
        except TimeoutError:
            raise Unavailable(f"Kafka broker {where} does not answer") from None
        except Disconnected as error:
            hint = " (does it expect TLS?)" if ssl is None else ""
            raise Unavailable(f"Kafka broker {where} hangs up{hint}: {error}") from None
        except OSError as error:
            raise Unavailable(f"Kafka broker {where} cannot be reached: {error.strerror or error}") from None
        finally:
            if connection is not None and not connection._greeted:
                connection.close("signing in failed")
        return connection

    _greeted = False

    async def _greet(self, address: KafkaAddress, where: str) -> None:
        body = await self.ask(API_VERSIONS, {})
        self._versions = {row["ApiKey"]: (row["MinVersion"], row["MaxVersion"]) for row in body["ApiKeys"]}
        if address.sasl:
            await self._sign_in(address, where)
        self._greeted = True

    async def _sign_in(self, address: KafkaAddress, where: str) -> None:
        signing = SignIn(address, where)
        while signing.request is not None:
            answer = await self.ask(*signing.request)
            await asyncio.to_thread(signing.take, answer)
        if signing.session_s > 0:
            self.expires_s = asyncio.get_running_loop().time() + signing.session_s * REAUTHENTICATE_SHARE

    @property
    def usable(self) -> bool:
        """Whether requests may still be sent."""
        expired = self.expires_s is not None and asyncio.get_running_loop().time() > self.expires_s
        return self._ended is None and not expired

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._asked

    def version(self, key: int) -> int:
        """The version of an API that both sides speak. Raises Unsupported."""
        first, last = VERSIONS[key]
        if key == API_VERSIONS:
            return first
        theirs = self._versions.get(key)
        if theirs is None or theirs[0] > last or theirs[1] < first:
            raise Unsupported(
                f"the cluster does not serve {APIS[key].name} v{first} to v{last}: it is too old or too new"
            )
        return min(last, theirs[1])

    async def ask(self, key: int, body: Struct, timeout_s: float = ANSWER_S) -> Struct:
        """Send a request and wait for its answer.

        Raises:
            Disconnected: the connection ended first, or the time was up. Unsupported: see `version`.
        """
        version = self.version(key)
        if self._ended is not None or self._transport is None:
            raise Disconnected(self._ended or "not connected")
        self._correlation_id = (self._correlation_id + 1) & 0x7FFFFFFF
        answer: asyncio.Future[Struct] = asyncio.get_running_loop().create_future()
        frame = encode_request(key, version, self._correlation_id, CLIENT_ID, body)
        self._asked.append(_Asked(self._correlation_id, key, version, answer))
        self._transport.write(frame)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            self.close(f"no answer to {APIS[key].name} within {timeout_s:.0f} s")
            raise Disconnected(self._ended) from None

    def close(self, reason: str = "closed") -> None:
        """End the connection at once."""
        if self._ended is None:
            self._ended = reason
        if self._transport is not None:
            self._transport.abort()
        self._tell_everybody()

    def _tell_everybody(self) -> None:
        asked, self._asked = self._asked, deque()
        for each in asked:
            if not each.answer.done():
                each.answer.set_exception(Disconnected(self._ended or "connection lost"))
                each.answer.exception()  # nobody may wait any more

    # -- asyncio.BufferedProtocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._ended is None:
            self._ended = f"connection lost: {exc}" if exc is not None else "the broker closed the connection"
        self._transport = None
        self._tell_everybody()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the loop."""
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop: exactly the size field, then exactly the frame, is received."""
        self._filled += nbytes
        if self._filled < len(self._buffer):
            return
        try:
            if len(self._buffer) == 4:
                size: int = _SIZE.unpack(self._buffer)[0]
                if not 4 <= size <= RESPONSE_BYTES_MAX:
                    raise RemoteProtocolError(f"answer of {size} bytes")
                self._buffer = self._buffer + bytearray(size)
            else:
                frame, self._buffer, self._filled = self._buffer, bytearray(4), 0
                self._take(frame)
        except GridwireError as error:
            self.close(f"what came is not Kafka's protocol: {error}")

    def _take(self, frame: bytearray) -> None:
        if not self._asked:
            raise RemoteProtocolError("an answer nobody asked for")
        asked = self._asked.popleft()
        try:
            correlation_id, body = decode_response(asked.key, asked.version, memoryview(frame))
            if correlation_id != asked.correlation_id:
                raise RemoteProtocolError(f"answer {correlation_id} to request {asked.correlation_id}")
        except GridwireError:
            self._asked.appendleft(asked)
            raise
        if not asked.answer.done():
            with contextlib.suppress(asyncio.InvalidStateError):
                asked.answer.set_result(body)
