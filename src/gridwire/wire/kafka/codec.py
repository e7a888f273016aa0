"""Every API's messages as bytes: registry of the tables, headers, decode and encode at any version served.

    frame     = size:int32 header body
    request   = key:int16 version:int16 correlation:int32 client_id:nullable string [tags when flexible]
    response  = correlation:int32 [tags when flexible, but never for ApiVersions]

The client id stays a classic string in flexible headers too. Closures are compiled on first use and kept.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

import msgspec

from gridwire.core.errors import LocalProtocolError, RemoteProtocolError
from gridwire.core.limits import MIB, REQUEST_BYTES_MAX
from gridwire.wire.kafka import primitives as p
from gridwire.wire.kafka import (
    tables_access,
    tables_admin,
    tables_data,
    tables_groups,
    tables_logs,
    tables_sasl,
    tables_transactions,
)
from gridwire.wire.kafka.compiler import Struct, compile_decoder, compile_encoder
from gridwire.wire.kafka.primitives import Buffer, Decoder, Encoder
from gridwire.wire.kafka.schema import Api, parse_tables

PRODUCE: Final = 0
FETCH: Final = 1
JOIN_GROUP: Final = 11
SYNC_GROUP: Final = 14
API_VERSIONS: Final = 18

CONTROL_BYTES_MAX: Final = 4 * MIB
"""One request that carries no records: a few bytes on the wire become a Python object each, so far below a produce."""

HEADER_LEAST_BYTES: Final = 8
"""Key, version and correlation id."""

_FIXED = struct.Struct(">hhi")
_PREFIX = struct.Struct(">ii")
_SIZE = struct.Struct(">i")
_MALFORMED = (struct.error, IndexError, UnicodeDecodeError)

_TABLES: Final = (
    tables_data, tables_groups, tables_admin, tables_logs, tables_access, tables_sasl, tables_transactions,
)  # fmt: skip

APIS: Final[dict[int, Api]] = {api.key: api for tables in _TABLES for api in parse_tables(tables.TABLES)}
"""Every API we know, by key."""


class RequestHeader(msgspec.Struct, frozen=True, gc=False):
    """Header of a request; `body_at` is where the body starts in the frame."""

    key: int
    version: int
    correlation_id: int
    client_id: str | None
    body_at: int


def frame_size(buffer: Buffer, position: int = 0, end: int | None = None) -> int | None:
    """Bytes of the request frame at `position`, its size field included; None when more bytes are needed to tell.

    Args:
        end: where the received bytes end, when the buffer is larger.

    Raises:
        RemoteProtocolError: the size is impossible or above the limit of its kind of request.
    """
    have = (len(buffer) if end is None else end) - position
    if have < 4:
        return None
    size: int = _SIZE.unpack_from(buffer, position)[0]
    if not HEADER_LEAST_BYTES <= size <= REQUEST_BYTES_MAX:
        limits = f"{HEADER_LEAST_BYTES} to {REQUEST_BYTES_MAX}"
        raise RemoteProtocolError(f"request of {size} bytes: {limits} are allowed")
    if size > CONTROL_BYTES_MAX:
        if have < 6:
            return None
        if p.INT16.unpack_from(buffer, position + 4)[0] != PRODUCE:
            raise RemoteProtocolError(f"request of {size} bytes without records: at most {CONTROL_BYTES_MAX}")
    return size + 4


def read_fixed_header(frame: Buffer, position: int = 4) -> tuple[int, int, int]:
    """(key, version, correlation id), the part of a header that never changes.

    Raises:
        RemoteProtocolError: the frame is too short.
    """
    if len(frame) - position < HEADER_LEAST_BYTES:
        raise RemoteProtocolError("request is too short for its header")
    key, version, correlation_id = _FIXED.unpack_from(frame, position)
    return key, version, correlation_id


def read_header(frame: Buffer, position: int = 4) -> RequestHeader:
    """Read the header of a request whose API and version we serve.

    Raises:
        RemoteProtocolError: it is malformed, or the API or version is not ours.
    """
    key, version, correlation_id = read_fixed_header(frame, position)
    api = _api(key, version)
    try:
        client_id, at = _CLIENT_ID(frame, position + HEADER_LEAST_BYTES)
        if api.flexible(version):
            at = p.skip_tags(frame, at)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed request header: {error}") from None
    return RequestHeader(key, version, correlation_id, client_id, at)


_CLIENT_ID: Final = p.string_decoder(p.read_length16, True)


def _api(key: int, version: int) -> Api:
    api = APIS.get(key)
    if api is None:
        raise RemoteProtocolError(f"API key {key} is not served")
    if not api.versions[0] <= version <= api.versions[1]:
        raise RemoteProtocolError(f"{api.name} v{version} is not served: v{api.versions[0]} to v{api.versions[1]} are")
    return api


@cache
def _request_decoder(key: int, version: int) -> Decoder:
    api = _api(key, version)
    return compile_decoder(api.request, version, api.flexible(version))


@cache
def _request_encoder(key: int, version: int) -> Encoder:
    api = _api(key, version)
    return compile_encoder(api.request, version, api.flexible(version))


@cache
def _response_decoder(key: int, version: int) -> Decoder:
    api = _api(key, version)
    return compile_decoder(api.response, version, api.flexible(version))


@cache
def _response_encoder(key: int, version: int) -> Encoder:
    api = _api(key, version)
    return compile_encoder(api.response, version, api.flexible(version))


def decode_request(key: int, version: int, frame: Buffer, body_at: int = 0) -> Struct:
    """Decode a request's body. Bytes after it are ignored, as Apache Kafka does.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    return _decode(_request_decoder(key, version), frame, body_at)


def _decode(decoder: Decoder, buffer: Buffer, position: int) -> Struct:
    try:
        body: Struct = decoder(buffer, position)[0]
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed message: {error}") from None
    return body


def has_flexible_header(key: int, version: int) -> bool:
    """Whether the response header carries tagged fields; ApiVersions never does, so that any client can read it."""
    return key != API_VERSIONS and APIS[key].flexible(version)


def encode_response(key: int, version: int, correlation_id: int, body: Struct) -> bytearray:
    """A whole response frame.

    Raises:
        LocalProtocolError: the body does not fit its table.
    """
    out = bytearray(8)
    if has_flexible_header(key, version):
        out.append(0)
    _encode(_response_encoder(key, version), out, body)
    _PREFIX.pack_into(out, 0, len(out) - 4, correlation_id)
    return out


def set_correlation_id(frame: bytearray, correlation_id: int) -> None:
    """Make a response frame that was encoded before the answer to another request."""
    p.INT32.pack_into(frame, 4, correlation_id)


def _encode(encoder: Encoder, out: bytearray, body: Struct) -> None:
    try:
        encoder(out, body)
    except struct.error as error:
        raise LocalProtocolError(f"message does not fit its table: {error}") from None


def encode_request(key: int, version: int, correlation_id: int, client_id: str | None, body: Struct) -> bytearray:
    """A whole request frame, for clients and tests.

    Raises:
        LocalProtocolError: the body does not fit its table.
    """
    out = bytearray(4)
    out += _FIXED.pack(key, version, correlation_id)
    p.string_encoder(p.write_length16, True)(out, client_id)
    if APIS[key].flexible(version):
        out.append(0)
    _encode(_request_encoder(key, version), out, body)
    _SIZE.pack_into(out, 0, len(out) - 4)
    return out


def decode_response(key: int, version: int, frame: Buffer) -> tuple[int, Struct]:
    """(correlation id, body) of a whole response frame, for clients and tests.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    try:
        correlation_id: int = p.INT32.unpack_from(frame, 4)[0]
        at = p.skip_tags(frame, 8) if has_flexible_header(key, version) else 8
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed response header: {error}") from None
    return correlation_id, _decode(_response_decoder(key, version), frame, at)
