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

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from han import aidon, kaifa, kamstrup, obis_map

from gridwire.grid.formats import framing
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Piece, Unusable, items
from gridwire.grid.formats.framing import FRAME_BYTES_MAX
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import BY_ALIAS, ReadingType

LINE_BYTES_MAX: Final = 3 * (FRAME_BYTES_MAX + 2)
"""A frame in hexadecimal, spaces between the bytes."""

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
            raise Unusable("neither this frame nor one before it names a meter: give its id")
        ts_us = self._time(fields.get(obis_map.FIELD_METER_DATETIME))
        found = [
            Reading(ts_us, type.id, value, scale + shift, meter=self.meter, source=self.context.source)
            for name, (type, shift) in _FIELDS.items()
            if isinstance(fields.get(name), int | float)
            for value, scale in (_exact(fields, name),)
        ]
        if not found:
            raise Unusable("frame carries no reading")
        return tuple(found)

    def _time(self, clock: object) -> int:
        if not isinstance(clock, datetime):
            if self.context.received_at_us is None:
                raise Unusable("frame has no clock: give the time of receipt")
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
    raise Unusable("no known list layout (Aidon, Kaifa, Kamstrup)")


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode frames out of bytes or hexadecimal lines; see `base.Format.stream`."""
    port = _Port(context)
    source = framing.Pushback(chunks, FRAME_BYTES_MAX + 2)
    first = source.peek()
    if framing.HEX_TEXT.match(first):
        pieces = framing.hex_lines(source, LINE_BYTES_MAX, _line)
    elif framing.FLAG in first[: FRAME_BYTES_MAX + 2] and first[:3] != _LLC:
        pieces = framing.hdlc_frames(source, _message)
    else:
        pieces = framing.lone(source, FRAME_BYTES_MAX, "neither HDLC frames nor one message")
    return items(pieces, lambda message, position: Decoded(port.readings(message), position))


def _message(content: bytes) -> bytes | None:
    """The message of a frame (without flags), or None when a check sequence is wrong."""
    if framing.checked(content) is None:
        return None
    try:
        return framing.information(content).part or None
    except ValueError:
        return None


def _line(data: bytes) -> Iterator[Piece]:
    if data[0] != framing.FLAG:
        return iter(((data, 0, data, ""),))
    return framing.hdlc_frames([data], _message)


FORMAT: Final = Format(
    "han", "Nordic HAN frames (Aidon, Kaifa, Kamstrup), binary or hexadecimal", ("*.han", "*.hex"), stream,
    "NEK HAN interface description; OBIS lists of Aidon, Kaifa, Kamstrup; HDLC (ISO/IEC 13239)",
    "frames with and without HDLC, short lists without meter or clock, an offset of zero that means local time",
    "amshan (it decodes the lists; frames of three makers)",
)  # fmt: skip
"""The format as the registry lists it."""
