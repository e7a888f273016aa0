"""SML, the Smart Message Language of German meters (EDL21, SyM2), with and without its escape transport.

    1B1B1B1B 01010101   messages   fill   1B1B1B1B 1A fill-count CRC CRC     a file; 1B1B1B1B inside is sent twice
    76 transaction group abort 72 choice body  CRC  00                       a message: a list of six

Two CRC-16 are in use, X.25 as the standard says and Kermit as some makers do; either is taken, for files and messages.
A time that is only a count of seconds since some start is none: such readings get the time of receipt.

Source: BSI TR-03109-1, annex IV; the message of interest is GetList.Res (0x0701).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastcrc import crc16

from gridwire.grid.formats import framing, units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Piece, Unusable, items
from gridwire.grid.reading import Reading
from gridwire.grid.reading_types import Accumulation

FRAME_BYTES_MAX: Final = 64 * 1024
"""Files have some 200 to 1,000 bytes; without an end after this many the start was none."""

DEPTH_MAX: Final = 12
"""Nesting no message comes near."""

_ESCAPE, _START = b"\x1b\x1b\x1b\x1b", b"\x01\x01\x01\x01"
_MESSAGE = 0x76
_OPEN, _CLOSE, _GET_LIST = 0x0101, 0x0201, 0x0701
_OCTETS, _BOOL, _INT, _UINT, _LIST = 0, 4, 5, 6, 7


class _Incomplete(Exception):
    """More bytes are needed; it never leaves this module."""


class _Reader:
    def __init__(self, data: bytes | bytearray, position: int = 0) -> None:
        self.data = data
        self.position = position

    def value(self, depth: int = 0) -> Any:
        """The next value: bytes, numbers, lists; None for an optional one that is left out."""
        kind, length, head = self._type_length()
        if kind == _LIST:
            if depth >= DEPTH_MAX:
                raise Unusable("lists are nested too deeply")
            if length > FRAME_BYTES_MAX:
                raise Unusable("a list of more elements than a message holds")
            return [self.value(depth + 1) for _ in range(length)]
        size = length - head
        if size < 0:
            raise Unusable("a length that does not cover itself") if length or head > 1 else Unusable("an early end")
        raw = self._take(size)
        if kind == _OCTETS:
            return raw if size else None
        if kind == _BOOL:
            return any(raw)
        if kind in (_INT, _UINT) and 1 <= size <= 8:
            return int.from_bytes(raw, "big", signed=kind == _INT)
        raise Unusable(f"data type {kind} of {size} bytes is not supported")

    def _type_length(self) -> tuple[int, int, int]:
        first = self._take(1)[0]
        kind, length, head = first >> 4 & 7, first & 0x0F, 1
        while first & 0x80:
            first = self._take(1)[0]
            length, head = length << 4 | first & 0x0F, head + 1
            if head > 4:
                raise Unusable("a length of more than four bytes")
        return kind, length, head

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise _Incomplete
        raw = bytes(self.data[self.position : end])
        self.position = end
        return raw


def _crc_fits(data: bytes, sent: bytes) -> bool:
    number = int.from_bytes(sent, "little")
    return crc16.ibm_sdlc(data) == number or crc16.kermit(data) == number


def _message(reader: _Reader) -> tuple[int, Any]:
    """(choice, body) of the message at the reader's position. Raises Unusable, _Incomplete."""
    start = reader.position
    kind, length, _ = reader._type_length()
    if kind != _LIST or length != 6:
        raise Unusable("not a message: it must be a list of six")
    for _ in range(3):
        reader.value(1)
    content = reader.value(1)
    checked_until = reader.position
    sent = reader.value(1)
    if reader._take(1) != b"\x00":
        raise Unusable("a message without its end mark")
    if not isinstance(content, list) or len(content) != 2 or not isinstance(content[0], int):
        raise Unusable("a message without a body")
    if not isinstance(sent, int) or not 0 <= sent <= 0xFFFF:
        raise Unusable("a message without its CRC")
    # One zero byte of a CRC may be left out, as with any unsigned number.
    if not _crc_fits(bytes(reader.data[start:checked_until]), sent.to_bytes(2, "big")):
        raise Unusable("CRC-16 of the message matches neither X.25 nor Kermit")
    return content[0], content[1]


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode files or bare messages, binary or one in hexadecimal per line; see `base.Format.stream`."""
    source = framing.Pushback(chunks, 16)
    pieces: Iterator[Piece]
    if framing.HEX_TEXT.match(source.peek()):
        pieces = framing.hex_lines(source, 3 * FRAME_BYTES_MAX, lambda data: framing.cut([data], _next))
    else:
        pieces = framing.cut(source, _next)

    def read(message: bytes, position: int) -> Decoded | None:
        readings, lists = _readings(message, context)
        if not readings and not lists:
            return None  # open, close, or something else that never carries readings
        if not readings:
            raise Unusable("list carries no reading")
        return Decoded(readings, position)

    return items(pieces, read)


def _next(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    """The file or message at the front; see `framing.NextPiece`."""
    if buffer[0] == _MESSAGE:
        return _next_bare(buffer, ended)
    if buffer.startswith(_ESCAPE + _START):
        return _next_file(buffer, ended)
    if not ended and len(buffer) < 8 and (_ESCAPE + _START).startswith(buffer):
        return None
    if buffer[0] == 0:
        filled = len(buffer) - len(buffer.lstrip(b"\x00"))
        return filled, b"", ""  # fill between bare messages
    starts = [at for at in (buffer.find(_ESCAPE + _START, 1), buffer.find(b"\x1b", max(1, len(buffer) - 7))) if at > 0]
    size = min(starts, default=len(buffer))
    if size > len(buffer) - 8 and not ended and len(buffer) < FRAME_BYTES_MAX and starts:
        return None if size == 0 else (size, b"", "bytes outside any file")
    return size, b"", "bytes outside any file"


def _next_file(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    position = 8
    while (position := buffer.find(_ESCAPE, position)) >= 0:
        mark = buffer[position + 4 : position + 8]
        if len(mark) < 4:
            break
        if mark == _ESCAPE:
            position += 8
            continue
        if mark == _START:
            return position, b"", "file is cut short by the next one"
        if mark[0] != 0x1A or mark[1] > 3:
            return position + 8, b"", "an unknown escape sequence"
        if not _crc_fits(bytes(buffer[: position + 6]), bytes(mark[2:])):
            return position + 8, b"", "CRC-16 of the file matches neither X.25 nor Kermit"
        content = bytes(buffer[8 : position - mark[1]]).replace(_ESCAPE + _ESCAPE, _ESCAPE)
        return position + 8, content, "" if content else "an empty file"
    if len(buffer) > FRAME_BYTES_MAX:
        return 8, b"", f"no end of the file within {FRAME_BYTES_MAX} bytes"
    return (len(buffer), b"", "file ends early") if ended else None


def _next_bare(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    reader = _Reader(buffer)
    try:
        _message(reader)
    except _Incomplete:
        if not ended and len(buffer) <= FRAME_BYTES_MAX:
            return None
        reason = "message ends early"
    except Unusable as error:
        reason = str(error)
    else:
        return reader.position, bytes(buffer[: reader.position]), ""
    following = min((at for at in (buffer.find(b"\x76\x05", 1), buffer.find(_ESCAPE, 1)) if at > 0), default=0)
    return (following or len(buffer)), b"", reason


def _readings(data: bytes, context: Context) -> tuple[tuple[Reading, ...], int]:
    """(readings, number of value lists) of the messages in a file. Raises Unusable."""
    reader = _Reader(data)
    found: list[Reading] = []
    lists = 0
    while reader.position < len(data):
        if data[reader.position] == 0:
            reader.position += 1
            continue
        try:
            choice, body = _message(reader)
        except _Incomplete:
            raise Unusable("message ends early") from None
        if choice == _GET_LIST:
            lists += 1
            found += _list_readings(body, context)
    return tuple(found), lists


def _list_readings(body: Any, context: Context) -> Iterator[Reading]:
    if not isinstance(body, list) or len(body) != 7 or not isinstance(body[4], list):
        raise Unusable("a list response without its seven fields")
    _, server, _, sensor_time, values, _, gateway_time = body
    meter = server.hex() if isinstance(server, bytes) else context.meter
    if not meter:
        raise Unusable("list names no meter: give its id")
    sent_us = _time_us(sensor_time) or _time_us(gateway_time) or context.received_at_us
    for entry in values:
        if isinstance(entry, list) and len(entry) == 7:
            yield from _reading(entry, meter, sent_us, context)


def _reading(entry: list[Any], meter: str, sent_us: int | None, context: Context) -> Iterator[Reading]:
    name, _, value_time, unit, scaler, value, _ = entry
    if not isinstance(name, bytes) or len(name) != 6 or isinstance(value, bool) or not isinstance(value, int):
        return
    unit_name = units.DLMS_UNITS.get(unit, "?") if isinstance(unit, int) else ""
    type = units.type_of_obis("{}-{}:{}.{}.{}".format(*name), unit_name) if unit_name != "?" else None
    if type is None or type.accumulation is Accumulation.INTERVAL:
        return
    if not unit_name and type.unit != "1":
        raise Unusable(f"no unit for {'{}-{}:{}.{}.{}'.format(*name)}")
    ts_us = _time_us(value_time) or sent_us
    if ts_us is None:
        raise Unusable("list has no clock: give the time of receipt")
    yield units.reading(type, value, scaler if isinstance(scaler, int) else 0, unit_name, ts_us, meter, context)


_TIMESTAMP_LEAST: Final = 946_684_800
"""2000-01-01: a smaller "timestamp" is a counter of seconds that its sender mislabelled."""


def _time_us(value: Any) -> int | None:
    """Microseconds since the epoch of an SML_Time; None for none and for a count of seconds."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    choice, content = value
    if choice == 3 and isinstance(content, list) and content:
        content = content[0]  # UTC, with the offsets to local time behind it
    if choice in (2, 3) and isinstance(content, int) and _TIMESTAMP_LEAST <= content < 2**32:
        return content * 1_000_000
    return None


FORMAT: Final = Format(
    "sml", "SML files or bare messages (Germany: EDL21, SyM2)", ("*.sml",), stream,
    "SML 1.04 (BSI TR-03109-1 annex IV)",
    "both CRC-16 in use (X.25, Kermit), messages without the escape transport, several lists a file, second indexes "
    "instead of times, left-out CRC bytes",
    "pysml 0.1.9 (where the CRC is one it knows)",
)  # fmt: skip
"""The format as the registry lists it."""
