"""AMQP messages to the records of a batch, and back, without a look into bodies.

    message:   [header] [delivery-annotations] [message-annotations] [properties] [application-properties] body [footer]
    batch (format 0x80013700): an envelope of such sections, then data sections; each holds one whole message
    body:      data sections | sequence sections | one value section

Source: OASIS AMQP 1.0, part 3, section 3.2; the batch format as the Azure SDKs write it.
"""

from __future__ import annotations

import struct
from typing import Final

from gridwire.core import batch
from gridwire.core.batch import varint
from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.mapping import BINARY, BODY, ENCODED, FOOTER, plain, restored
from gridwire.wire.amqp.sections_in import header, read_head, read_key, section

BATCH_FORMAT: Final = 0x80013700
"""message-format of a transfer that carries many events."""

DATA8: Final = b"\x00\x53\x75\xa0"
DATA32: Final = b"\x00\x53\x75\xb0"
_DATA_SECTION: Final = b"\x00\x53\x75"
_DATA, _SEQUENCE, _VALUE, _FOOTER = 0x75, 0x76, 0x77, 0x78

EVENTS_MAX: Final = 65_536
"""Events of one delivery: each takes nine bytes at least, so a large message could claim a hundred thousand."""

_U32: Final = struct.Struct(">I")
_TABLE: Final = 4096
_DELTAS: Final = 8192
"""Offset deltas of one or two bytes: the delivery that fills a batch of 4,096 events may go beyond them."""
_LENGTHS: Final = [varint(size) for size in range(_TABLE)]
_NO_KEY: Final = [b"\x00\x00" + varint(delta) + b"\x01" for delta in range(_DELTAS)]
"""Attributes, time delta 0, offset delta, no key: how a plain record begins."""
_SIZES: Final = [[varint(size + width + 4 + (1 if size < 64 else 2)) for size in range(_TABLE)] for width in (1, 2)]
"""Size of a plain record by the width of its offset delta and the size of its value."""


class Records:
    """Records that become one batch. All have the same time: when they came."""

    __slots__ = ("count", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.count = 0
        self.size = 0
        """Bytes the batch will have, give or take a few for each event."""

    def batch(self, now_ms: int) -> bytearray:
        """The batch, to be appended."""
        records = b"".join(self.parts)
        return batch.assemble(records, record_count=self.count, base_timestamp=now_ms, max_timestamp=now_ms)

    def add_delivery(self, data: bytes, start: int, end: int, message_format: int, key: bytes | None = None) -> int:
        """Add the events of one delivery, all or none; returns how many. `key`: for those without one.

        Raises:
            AmqpError: it is malformed.
        """
        before = len(self.parts), self.count, self.size
        try:
            if message_format == BATCH_FORMAT:
                start, own, _ = read_head(data, start, end)
                key = own if own is not None else key
                if start >= end:
                    raise AmqpError(DECODE_ERROR, "a batch without events")
                self._add_batch(data, start, end, key)
            elif key is not None or data[start : start + 3] != _DATA_SECTION or not self._add_plain(data, start, end):
                self._add(data, start, end, key)
        except BaseException:
            del self.parts[before[0] :]
            self.count, self.size = before[1:]
            raise
        self.size += end - start
        return self.count - before[1]

    def _add_batch(self, data: bytes, position: int, end: int, key: bytes | None) -> None:
        """Add every event of a batch. The loop is the hot one: a plain event (a body, nothing else) is a few slices."""
        parts, index, first = self.parts, self.count, self.count
        lengths, beginnings, sizes = _LENGTHS, _NO_KEY, _SIZES[0]
        while position < end:
            mark = data[position : position + 4]
            if mark == DATA8 and position + 5 <= end:
                start = position + 5
                position = start + data[start - 1]
            elif mark == DATA32 and position + 8 <= end:
                start = position + 8
                position = start + _U32.unpack_from(data, start - 4)[0]
            else:
                start, position = _wrapped(data, position, end)
            if position > end:
                raise AmqpError(DECODE_ERROR, "an event runs past the end of its batch")
            mark = data[start : start + 4]
            if mark == DATA8 and start + 5 <= position:
                body = start + 5
                size = data[start + 4]
            elif mark == DATA32 and start + 8 <= position:
                body = start + 8
                size = _U32.unpack_from(data, start + 4)[0]
            else:
                body = size = 0
            if body + size == position and key is None and size < _TABLE and index < _DELTAS:
                if index >= 64:
                    sizes = _SIZES[1]
                parts += (sizes[size], beginnings[index], lengths[size], data[body:position], b"\x00")
                index += 1
                continue
            self.count = index
            self._add(data, start, position, key)
            index = self.count
        if index - first > EVENTS_MAX:
            raise AmqpError(DECODE_ERROR, f"a batch of more than {EVENTS_MAX} events")
        self.count = index

    def _add_plain(self, data: bytes, start: int, end: int) -> bool:
        """Add an event that is a body and nothing else, in a few slices; whether it was one."""
        body, index = _whole_body(data, start, end), self.count
        size = end - body
        if not body or size >= _TABLE or index >= _DELTAS:
            return False
        sizes = _SIZES[1] if index >= 64 else _SIZES[0]
        self.parts += (sizes[size], _NO_KEY[index], _LENGTHS[size], data[body:end], b"\x00")
        self.count = index + 1
        return True

    def _add(self, data: bytes, start: int, end: int, key: bytes | None) -> None:
        """Add any event."""
        value, own, headers = event(data, start, end)
        key = own if own is not None else key
        index, size = self.count, -1 if value is None else len(value)
        if key is None and index < _DELTAS:
            beginning = _NO_KEY[index]
        else:
            beginning = b"\x00\x00" + varint(index) + (b"\x01" if key is None else varint(len(key)) + key)
        length = _LENGTHS[size] if 0 <= size < _TABLE else varint(size)
        body = b"".join((beginning, length, value or b"", varint(len(headers)), *headers))
        size = len(body)
        self.parts += (_LENGTHS[size] if size < _TABLE else varint(size), body)
        self.size += size - (end - start)  # names and types of headers may be longer than what came
        self.count = index + 1


def _wrapped(data: bytes, position: int, end: int) -> tuple[int, int]:
    """(start, end) of an event in a data section that is written in an unusual way."""
    code, at = section(data, position, end)
    if code != _DATA:
        raise AmqpError(DECODE_ERROR, "a batch holds something that is no event")
    return _binary(data, at, end)


def _binary(data: bytes, position: int, end: int) -> tuple[int, int]:
    """(start, end) of the bytes of a binary value."""
    after = types.skip(data, position, end)
    if data[position] not in (0xA0, 0xB0):
        raise AmqpError(DECODE_ERROR, "a data section that is not binary")
    return position + (2 if data[position] == 0xA0 else 5), after


def key_of(data: bytes, position: int, end: int) -> bytes | None:
    """The key a message or the envelope of a batch has. Raises AmqpError."""
    return None if data[position : position + 3] == _DATA_SECTION else read_key(data, position, end)


def event(data: bytes, start: int, end: int) -> tuple[bytes | None, bytes | None, list[bytes]]:
    """(the record's value, its key, its headers, encoded) of one message. Raises AmqpError."""
    position, key, headers = read_head(data, start, end)
    body = _whole_body(data, position, end)
    if body:
        return data[body:end], key, headers
    value, told, footer = _bodies(data, position, end)
    if told:
        headers.append(header(BODY, told))
    if footer:
        headers.append(header(FOOTER, footer))
    return value, key, headers


def _whole_body(data: bytes, position: int, end: int) -> int:
    """Where the bytes of a data section begin that lies at `position` and goes to the end; 0 if none does."""
    mark = data[position : position + 4]
    if mark == DATA8 and position + 5 <= end:
        body = position + 5
        return body if body + data[body - 1] == end else 0
    if mark == DATA32 and position + 8 <= end:
        body = position + 8
        return body if body + _U32.unpack_from(data, body - 4)[0] == end else 0
    return 0


def _bodies(data: bytes, position: int, end: int) -> tuple[bytes | None, bytes, bytes]:
    """(the record's value, what `amqp.body` says, the footer) of bodies of any kind. Raises AmqpError."""
    bodies: list[tuple[int, int, int]] = []
    footer = b""
    first = last = position
    while position < end:
        code, at = section(data, position, end)
        after = types.skip(data, position, end)
        if code == _FOOTER:
            footer = data[position:after]
        elif code < _DATA or footer:
            raise AmqpError(DECODE_ERROR, "a message's sections are out of order")
        else:
            bodies.append((code, at, after))
            last = after
        position = after
    if not bodies:
        return None, b"", footer
    kind = bodies[0][0]
    if any(code != kind for code, _, _ in bodies) or (kind == _VALUE and len(bodies) > 1):
        raise AmqpError(DECODE_ERROR, "a message has bodies of different kinds")
    return *_body(data, kind, bodies, first, last), footer


def _body(
    data: bytes, kind: int, bodies: list[tuple[int, int, int]], first: int, last: int
) -> tuple[bytes | None, bytes]:
    """(the record's value, what `amqp.body` says)."""
    if kind == _DATA:
        pieces = []
        for _, at, after in bodies:
            start, stop = _binary(data, at, after)
            pieces.append(data[start:stop])
        if len(pieces) == 1:
            return pieces[0], b""
        return b"".join(pieces), b"data:" + b",".join(b"%d" % len(piece) for piece in pieces)
    if kind == _SEQUENCE:
        for _, at, after in bodies:
            types.decode(data, at, after)
        return data[first:last], b"sequence"
    _, at, after = bodies[0]
    code, value, _ = plain(data, at, after)
    if value is None:
        return None, b"null"
    if code in (0xA0, 0xA1):
        return value, b"value:%02x" % code
    return data[at:after], b"value"


def body_sections(value: bytes | None, told: bytes) -> bytes:
    """The body sections of a record's value. What does not fit `amqp.body` goes as data."""
    if told:
        kind, _, rest = told.partition(b":")
        try:
            if kind == b"null" and value is None:
                return b"\x00\x53\x77\x40"
            if kind == b"sequence" and value is not None and _is_sequence(value):
                return value
            if kind == b"value" and value is not None:
                code = int(rest, 16) if rest else ENCODED
                restored_value = restored(code, value)
                if code == BINARY or restored_value != types.binary(value):
                    return b"\x00\x53\x77" + restored_value
            if kind == b"data" and value is not None:
                return _pieces(value, [int(size) for size in rest.split(b",")])
        except (ValueError, AmqpError):
            pass
    return data_section(value or b"")


def data_section(body: bytes) -> bytes:
    """A data section."""
    size = len(body)
    return (DATA8 + bytes((size,)) if size < 256 else DATA32 + _U32.pack(size)) + body


def _is_sequence(value: bytes) -> bool:
    position = 0
    while position < len(value):
        code, _ = section(value, position, len(value))
        if code != _SEQUENCE:
            return False
        position = types.skip(value, position, len(value))
    return True


def _pieces(value: bytes, sizes: list[int]) -> bytes:
    if min(sizes) < 0 or sum(sizes) != len(value):
        raise ValueError
    out, position = [], 0
    for size in sizes:
        out.append(data_section(value[position : position + size]))
        position += size
    return b"".join(out)
