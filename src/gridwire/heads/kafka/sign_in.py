"""What a connection of a hub with sign-in keeps beside its bytes: its gate, its place, its quota."""

from __future__ import annotations

import struct
from typing import Any, Final

from gridwire.auth.model import Identity
from gridwire.broker.identities import Identities, Usage
from gridwire.core.errors import RemoteProtocolError
from gridwire.heads.kafka.sasl import STRANGER_FRAME_BYTES_MAX, Gate
from gridwire.heads.tls import certificate_names
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.errors import ErrorCode
from gridwire.wire.kafka.primitives import Buffer

_SIZE: Final = struct.Struct(">i")
_HEADER_BYTES: Final = 8
_FETCH_THROTTLE_FROM: Final = 1


def raw_frame_size(buffer: Buffer, start: int, end: int) -> int | None:
    """Bytes of a raw SASL token with its size field; None when more must arrive. Raises RemoteProtocolError."""
    if end - start < _SIZE.size:
        return None
    size: int = _SIZE.unpack_from(buffer, start)[0]
    if not 0 <= size <= STRANGER_FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"a SASL token of {size} bytes")
    return size + _SIZE.size


class Admission:
    """See the module. `since_s`: when the connection came, on the head's clock."""

    __slots__ = ("_counted", "_usage", "_whose", "gate", "since_s")

    def __init__(
        self, access: Identities, peer: str, host: str, since_s: float, certificate: dict[str, Any] | None
    ) -> None:
        self.gate = Gate(access, peer, host)
        self.since_s = since_s
        self._usage: Usage | None = None
        self._counted = False
        self._whose: Identity | None = None
        identity = access.by_certificate(certificate_names(certificate)) if certificate else None
        if identity is not None:
            self.gate.signed_in(identity)
            self.settle()

    def check_size(self, size: int | None) -> None:
        """Raises RemoteProtocolError when a stranger sends much."""
        if size is not None and size > STRANGER_FRAME_BYTES_MAX and self.gate.identity is None:
            raise RemoteProtocolError(f"a request of {size} bytes before signing in")

    def raw(self, frame: Buffer) -> bytes:
        """Answer a raw SASL token."""
        answer = self.gate.authenticate(bytes(memoryview(frame)[_SIZE.size :]))
        if answer["ErrorCode"] != ErrorCode.NONE:
            return b""
        token: bytes = answer["AuthBytes"]
        return _SIZE.pack(len(token)) + token

    def settle(self) -> bool:
        """Take note of who signed in; False when the connection has to end."""
        identity = self.gate.identity
        if self.gate.failed:
            return False
        if identity is None or identity is self._whose:
            return True
        self._whose = identity
        usage = self.gate.access.usage(identity)
        if usage is not self._usage:
            self.close()
            self._usage = usage
            if usage is not None:
                limit = identity.quota.connections
                if limit and usage.connections >= limit:
                    self.gate.failed = True
                    return False
                usage.connections += 1
                self._counted = True
        return True

    def used(self, header: codec.RequestHeader, frame: bytearray | None, size_in: int, size_out: int) -> float:
        """Charge a request and its answer; returns the seconds to pause, which the answer is made to say as well."""
        if self.gate.identity is not self._whose:  # what it may use may have changed
            self.settle()
        usage = self._usage
        if usage is None:
            return 0.0
        now_s = self.gate.access.monotonic()
        wait_s = max(usage.inbound.take(size_in, now_s), usage.outbound.take(size_out, now_s))
        if wait_s > 0 and frame is not None:
            _tell(header, frame, round(wait_s * 1000))
        return wait_s

    def close(self) -> None:
        """Give the place back."""
        if self._usage is not None and self._counted:
            self._usage.connections -= 1
        self._counted = False


def _tell(header: codec.RequestHeader, frame: bytearray, wait_ms: int) -> None:
    """Write the pause into the answers whose throttle time lies at a known place."""
    flexible = codec.APIS[header.key].flexible(header.version)
    if header.key == codec.PRODUCE and header.version >= 1:
        _SIZE.pack_into(frame, len(frame) - _SIZE.size - flexible, wait_ms)
    elif header.key == codec.FETCH and header.version >= _FETCH_THROTTLE_FROM:
        _SIZE.pack_into(frame, _HEADER_BYTES + flexible, wait_ms)
