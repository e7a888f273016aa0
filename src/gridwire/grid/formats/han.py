"""Nordic HAN frames: the DLMS push lists of Aidon, Kaifa and Kamstrup meters in Norway and Sweden.

    7E  A x LL  destination  source  13  HCS HCS  E6 E7 00  0F invoke-id clock  body ...  FCS FCS  7E

Input is one of: a binary HDLC stream; one bare message (starting at `E6 E7 00`, `0F` or the body); text with one frame,
framed or bare, in hexadecimal per line (`#` starts a comment). HDLC without octet stuffing, as the HAN ports send it:
the length field says where a frame ends, so a 7E inside is no flag.

A port sends a short list every few seconds and longer ones now and then. Short lists may name no meter: they belong to
the meter named last in the same stream. Lists without a clock get the time of receipt. A clock that says its offset
from UTC is believed; one that says none, or an offset of zero, shows local time with summer time, in `Context.zone`:
that is what the Norwegian interface prescribes. In the hour that local time repeats, the first pass is assumed.

Source: NEK HAN interface description, OBIS lists of Aidon, Kaifa and Kamstrup; ISO/IEC 13239 for the frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from han import aidon, kaifa, kamstrup, obis_map
from han.hdlc import HdlcFrame

from gridwire.grid.formats.base import BadFrame, Context, Decoded, Format, Item, bad_pieces
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import BY_ALIAS, ReadingType

_FLAG = 0x7E
_FORMAT_TYPE = 0xA0
_FRAME_BYTES_MIN = 9
FRAME_BYTES_MAX: Final = 0x7FF
"""Eleven bits of length."""

LINE_BYTES_MAX: Final = 3 * (FRAME_BYTES_MAX + 2)
"""A frame in hexadecimal, spaces between the bytes."""

_HEX_TEXT = re.compile(rb"\s*(?:#|[0-9A-Fa-f]{2}(?:[0-9A-Fa-f\s:]|\Z))")  # no binary message starts like this
_NOT_HEX = re.compile(rb"[\s:]")

_Decoder = Callable[[bytes], dict[str, Any]]
_FRAME_DECODERS: Final[tuple[_Decoder, ...]] = (
    aidon.decode_frame_content, kaifa.decode_frame_content, kamstrup.decode_frame_content,
)  # fmt: skip
_BODY_DECODERS: Final[tuple[_Decoder, ...]] = (
    aidon.decode_notification_body, kaifa.decode_notification_body, kamstrup.decode_notification_body,
)  # fmt: skip
_LLC = b"\xe6\xe7\x00"
_APDU = 0x0F

_KILO = -3  # the meters send W, Wh, var and varh
_FIELDS: Final[dict[str, tuple[ReadingType, int]]] = {
    field.format(suffix): (BY_ALIAS[alias.format(suffix)], shift)
    for field, alias, shift, suffixes in (
        ("active_power_import{}", "power_import{}_kw", _KILO, ("", "_l1", "_l2", "_l3")),
        ("active_power_export{}", "power_export{}_kw", _KILO, ("", "_l1", "_l2", "_l3")),
        ("reactive_power_import{}", "reactive_import{}_kvar", _KILO, ("", "_l1", "_l2", "_l3")),
        ("reactive_power_export{}", "reactive_export{}_kvar", _KILO, ("", "_l1", "_l2", "_l3")),
        ("current{}", "current{}_a", 0, ("_l1", "_l2", "_l3")),
        ("voltage{}", "voltage{}_v", 0, ("_l1", "_l2", "_l3")),
        ("active_power_import_total{}", "import_register_kwh{}", _KILO, ("",)),
        ("active_power_export_total{}", "export_register_kwh{}", _KILO, ("",)),
        ("reactive_power_import_total{}", "import_register_kvarh{}", _KILO, ("",)),
        ("reactive_power_export_total{}", "export_register_kvarh{}", _KILO, ("",)),
        ("power_factor{}", "power_factor{}", 0, ("", "_l1", "_l2", "_l3")),
    )
    for suffix in suffixes
}
"""Reading type and power of ten by the decoder's field names."""

_DECIMALS = 3
"""The finest the meters send is 0.001; rounding to it undoes the decoder's floating point exactly."""


class _Unusable(Exception):
    """Why a frame gives no readings; it never leaves this module."""


class _Port:
    """The HAN port of one meter: what its frames leave out."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.meter = context.meter
        self.zone = ZoneInfo(context.zone)

    def readings(self, message: bytes) -> tuple[Reading, ...]:
        """Readings of a message without its HDLC frame."""
        fields = _fields(message)
        self.meter = str(fields.get(obis_map.FIELD_METER_ID) or self.meter).strip("\x00 ")
        if not self.meter:
            raise _Unusable("neither this frame nor one before it names a meter: give its id")
        ts_us = self._time(fields.get(obis_map.FIELD_METER_DATETIME))
        found = [
            Reading(ts_us, type.id, value, scale + shift, meter=self.meter, source=self.context.source)
            for name, (type, shift) in _FIELDS.items()
            if isinstance(fields.get(name), int | float)
            for value, scale in (_exact(fields, name),)
        ]
        if not found:
            raise _Unusable("frame carries no reading")
        return tuple(found)

    def _time(self, clock: object) -> int:
        if not isinstance(clock, datetime):
            if self.context.received_at_us is None:
                raise _Unusable("frame has no clock: give the time of receipt")
            return self.context.received_at_us
        if clock.utcoffset() in (None, timedelta(0)):
            clock = clock.replace(tzinfo=self.zone, fold=0)
        return timestamp_us(clock)


def _exact(fields: dict[str, Any], name: str) -> tuple[int, int]:
    number = fields[name]
    if isinstance(number, float):
        number = Decimal(repr(round(number, _DECIMALS)))
        number = number.quantize(Decimal(1)) if number == number.to_integral_value() else number
    value, scale = value_parts(number)
    transformed = str(fields.get(obis_map.FIELD_METER_TYPE, "")).startswith("685")
    if transformed and name.startswith("current_") and fields.get("meter_manufacturer") == "Kamstrup":
        scale -= 1  # CT meters send 0.001 A where others send 0.01 A; the decoder does not know
    return value, scale


def _fields(message: bytes) -> dict[str, Any]:
    """Decode with whichever maker's layout fits."""
    if message[:1] == bytes([_APDU]):
        message = _LLC + message
    decoders = _FRAME_DECODERS if message[:3] == _LLC else _BODY_DECODERS
    for decode in decoders:
        try:
            return decode(message)
        except Exception:  # noqa: S112 - each decoder fails in its own ways on the others' layouts
            continue
    raise _Unusable("no known list layout (Aidon, Kaifa, Kamstrup)")


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode frames out of bytes or hexadecimal lines; see `base.Format.stream`."""
    port = _Port(context)
    source = _Pushback(chunks)
    first = source.peek()
    if _HEX_TEXT.match(first):
        pieces = _lines(source)
    elif _FLAG in first[: FRAME_BYTES_MAX + 2] and first[:3] != _LLC:
        pieces = _frames(source)
    else:
        pieces = _bare(source)
    for raw, position, message, reason in pieces:
        if reason:
            yield from bad_pieces(raw, reason, position)
            continue
        try:
            yield Decoded(port.readings(message), position)
        except _Unusable as error:
            yield BadFrame(raw, str(error), position)
        except Exception as error:  # a bad frame must never stop the stream
            yield BadFrame(raw, f"frame not understood: {type(error).__name__}: {error}", position)


class _Pushback:
    """An iterator of chunks whose beginning can be looked at first."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._head = b""

    def peek(self) -> bytes:
        while len(self._head) < FRAME_BYTES_MAX + 2:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._head += chunk
        return self._head

    def __iter__(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        yield from self._chunks


_Piece = tuple[bytes, int, bytes, str]  # raw, position, message, reason


def _frames(chunks: Iterable[bytes]) -> Iterator[_Piece]:
    """Cut a binary stream into HDLC frames."""
    buffer = bytearray()
    position = 0
    ended = False
    source = iter(chunks)
    while True:
        piece = _next_frame(buffer, ended)
        if piece is None:
            if ended:
                return
            chunk = next(source, None)
            ended = chunk is None
            buffer += chunk or b""
            continue
        size, message, reason = piece
        if message or reason:
            yield bytes(buffer[:size]), position, message, reason
        del buffer[:size]
        position += size


def _next_frame(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    """(size, message, reason) of the piece at the front; None when more bytes are needed."""
    if not buffer:
        return None
    start = buffer.find(_FLAG)
    if start != 0:
        return (start if start > 0 else len(buffer)), b"", "bytes outside any frame"
    if len(buffer) > 1 and buffer[1] == _FLAG:
        return 1, b"", ""  # end flag, then start flag
    if len(buffer) < 3:
        return (len(buffer), b"", "" if len(buffer) == 1 else "frame ends early") if ended else None
    length = (buffer[1] & 0x07) << 8 | buffer[2]
    if buffer[1] & 0xF0 == _FORMAT_TYPE and length >= _FRAME_BYTES_MIN:
        if len(buffer) < length + 2 and not ended:
            return None
        if len(buffer) >= length + 2 and buffer[length + 1] == _FLAG:
            message = _checked(bytes(buffer[1 : length + 1]))
            if message is not None:
                return length + 1, message, ""  # the end flag may be the next frame's start flag
            return length + 1, b"", "FCS of the frame does not match its bytes"
    following = buffer.find(_FLAG, 1)
    if following < 0 and not ended and len(buffer) <= FRAME_BYTES_MAX + 2:
        return None
    return (following if following > 0 else len(buffer)), b"", "frame ends early or is not of HDLC format type 3"


def _checked(content: bytes) -> bytes | None:
    """The message of a frame (without flags), or None when its check sequence is wrong."""
    frame = HdlcFrame()
    for byte in content:
        frame.append(byte)
    return frame.payload if frame.is_good_ffc and frame.is_expected_length else None


def _lines(chunks: Iterable[bytes]) -> Iterator[_Piece]:
    """Frames in hexadecimal, one a line."""
    buffer = bytearray()
    position = 0
    for chunk in chunks:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0 or len(buffer) > LINE_BYTES_MAX:
            size = end + 1 if 0 <= end <= LINE_BYTES_MAX else LINE_BYTES_MAX
            yield from _line(bytes(buffer[:size]), position)
            del buffer[:size]
            position += size
    yield from _line(bytes(buffer), position)


def _line(raw: bytes, position: int) -> Iterator[_Piece]:
    digits = _NOT_HEX.sub(b"", raw.partition(b"#")[0])
    if not digits:
        return
    try:
        data = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        yield raw, position, b"", "line is not hexadecimal"
        return
    if data[0] != _FLAG:
        yield data, position, data, ""
        return
    for frame, _, message, reason in _frames([data]):
        yield frame, position, message, reason


def _bare(chunks: Iterable[bytes]) -> Iterator[_Piece]:
    """One message that is the whole input."""
    data = b""
    position = 0
    for chunk in chunks:
        data += chunk
        if len(data) > FRAME_BYTES_MAX:
            yield data, position, b"", "neither HDLC frames nor one message"
            position += len(data)
            data = b""
    if data and position == 0:
        yield data, position, data, ""
    elif data:
        yield data, position, b"", "neither HDLC frames nor one message"


FORMAT: Final = Format(
    "han", "Nordic HAN frames (Aidon, Kaifa, Kamstrup), binary or hexadecimal", ("*.han", "*.hex", "*.hdlc"), stream
)
"""The format as the registry lists it."""
