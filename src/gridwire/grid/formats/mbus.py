"""Wired M-Bus: variable data responses of electricity, gas, water, heat and cooling meters.

    68 L L 68  C A CI  id(4) maker(2) version medium access status signature(2)  records ...  checksum 16

A record is DIF [DIFE...] VIF [VIFE...] data. Current values and stored ones that come with their date are read; minima,
maxima and maker's own records are not, but for the phases of makers that are known to number them. Clocks show local
time of the zone; their summer time bit settles the hour that comes twice. Frames encrypted in mode 5 (AES-128-CBC) are
opened with the key of the meter's id.

Source: EN 13757-2 (frames), EN 13757-3 (records), OMS volume 2 (mode 5), the makers' register lists (phases).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gridwire.grid.formats import framing, units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Unusable, items
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import BY_ALIAS, ReadingType

FRAME_BYTES_MAX: Final = 6 + 255
"""One byte of length."""

_LONG, _SHORT, _ACK, _STOP = 0x68, 0x10, 0xE5, 0x16
_HEADER_FULL, _HEADER_SHORT, _HEADER_NONE, _FIXED = 0x72, 0x7A, 0x78, 0x73
_NO_SIGNATURE: Final = b"\xff\xff"  # of meters older than encryption
_DLMS_BEFORE: Final = 0x20  # CI: below this it numbers segments, see `dlms`
_ELECTRICITY, _GAS = 0x02, 0x03
_HEAT, _COOLING, _WATER = (0x04, 0x0C, 0x0D), (0x0A, 0x0B), (0x06, 0x07, 0x15, 0x16, 0x17)
_SIZES: Final = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 6, 7: 8, 8: 0, 9: 1, 10: 2, 11: 3, 12: 4, 14: 6}
_PLAIN_TEXT: Final = 0x7C  # VIF: a unit in words, its length and letters come next
_BACKWARD: Final = 0x3C  # VIFE: accumulation of what flows back
_OWN, _NO_ERROR = b"\x7f", b"\x00"  # VIFE: what follows is the maker's; the value is sound
_PHASE_NUMBERS: Final = (b"\x00", b"\x01", b"\x02", b"\x03")
_NUMBER_PHASES: Final = frozenset({"ABB", "EMU", "SBC", "FIN"})
"""Makers who put the number of the phase there, 0 for all: ABB, EMU Electronic, Saia-Burgess, Finder."""


@dataclass(frozen=True, slots=True)
class _Record:
    function: int
    storage: int
    tariff: int
    subunit: int
    vifs: bytes
    kind: int
    data: bytes


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode frames, binary or one in hexadecimal per line; see `base.Format.stream`."""
    source = framing.Pushback(chunks, 16)
    if framing.HEX_TEXT.match(source.peek()):
        pieces = framing.hex_lines(source, 3 * FRAME_BYTES_MAX, lambda data: framing.cut([data], next_frame))
    else:
        pieces = framing.cut(source, next_frame)
    return items(pieces, lambda message, position: Decoded(_readings(message, context), position))


def next_frame(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    """The content of the frame at the front, C to data; see `framing.NextPiece`."""
    if buffer[0] == _ACK:
        return 1, b"", ""
    if buffer[0] == _SHORT and len(buffer) >= 5 and buffer[4] == _STOP:
        return 5, b"", ""  # a request somebody overheard
    if buffer[0] == _LONG:
        if len(buffer) < 4 and not ended:
            return None
        size = 6 + (buffer[1] if len(buffer) > 1 else 0)
        if len(buffer) >= 4 and buffer[1] == buffer[2] and buffer[3] == _LONG and buffer[1] >= 3:
            if len(buffer) < size and not ended:
                return None
            if len(buffer) >= size and buffer[size - 1] == _STOP:
                content = bytes(buffer[4 : size - 2])
                fits = sum(content) & 0xFF == buffer[size - 2]
                return (size, content, "") if fits else (size, b"", "checksum of the frame does not match its bytes")
    elif buffer[0] == _SHORT and not ended and len(buffer) < 5:
        return None
    following = buffer.find(_LONG, 1)
    return (following if following > 0 else len(buffer)), b"", "no M-Bus frame, or it ends early"


def _readings(content: bytes, context: Context) -> tuple[Reading, ...]:
    meter, maker, medium, data = _header(content, context)
    if not meter:
        raise Unusable("frame names no meter: give its id")
    records = list(_records(data))
    zone = ZoneInfo(context.zone)
    times = {r.storage: ts for r in records if r.function == 0 and (ts := _time_us(r, zone)) is not None}
    found: dict[tuple[int, int], Reading] = {}
    without_time = False
    for record in records:
        known = _quantity(record, medium, maker in _NUMBER_PHASES)
        if known is None:
            continue
        type, power, unit = known
        ts_us = times.get(record.storage, context.received_at_us if record.storage == 0 else None)
        number = _number(record)
        if ts_us is None or number is None:
            without_time = without_time or (ts_us is None and record.storage == 0)
            continue
        reading = units.reading(type, number[0], number[1] + power, unit, ts_us, meter, context)
        found.setdefault((type.id, ts_us), reading)
    if without_time:
        raise Unusable("frame has no clock: give the time of receipt")
    if not found:
        raise Unusable("frame carries no reading")
    return tuple(found.values())


def _header(content: bytes, context: Context) -> tuple[str, str, int, bytes]:
    """(meter, maker, medium, records). Raises Unusable."""
    kind = content[2]
    if kind == _HEADER_FULL:
        if len(content) < 15:
            raise Unusable("frame ends in its header")
        head, data = content[3:15], content[15:]
        meter = head[3::-1].hex()
        mode = int.from_bytes(head[10:12], "little") >> 8 & 0x1F
        if mode and head[10:12] != _NO_SIGNATURE and data[:2] != b"\x2f\x2f":
            data = _decrypted(head, data, meter, mode, context)
        return meter, _maker(head[4:6]), head[7], data
    if kind == _HEADER_SHORT:
        return context.meter, "", _ELECTRICITY if not context.meter else 0, content[7:]
    if kind == _HEADER_NONE:
        return context.meter, "", 0, content[3:]
    if kind == _FIXED:
        raise Unusable("fixed data structures (CI 73) are not supported")
    if kind < _DLMS_BEFORE:
        raise Unusable("frame carries a part of a DLMS message: it is of the format dlms")
    raise Unusable(f"frame is no data response (CI {kind:02x})")


def _maker(raw: bytes) -> str:
    """Three letters of five bits each."""
    number = int.from_bytes(raw, "little")
    return "".join(chr(64 + (number >> shift & 31)) for shift in (10, 5, 0))


def _decrypted(head: bytes, data: bytes, meter: str, mode: int, context: Context) -> bytes:
    if mode != 5:
        raise Unusable(f"encryption mode {mode} is not supported, only mode 5")
    key = context.keys.find(meter)
    if key is None:
        raise Unusable(f"no key for meter {meter}: add it to the key file")
    size = 16 * (head[10] >> 4)
    if size == 0 or size > len(data):
        raise Unusable("encrypted frame ends early")
    vector = head[4:6] + head[:4] + head[6:8] + head[8:9] * 8
    opened = Cipher(algorithms.AES(key.encryption), modes.CBC(vector)).decryptor()
    plain = opened.update(data[:size]) + opened.finalize()
    if plain[:2] != b"\x2f\x2f":
        raise Unusable(f"the key of meter {meter} does not open this frame")
    return plain + data[size:]


def _records(data: bytes) -> Iterator[_Record]:
    """Records up to the maker's own part. Raises Unusable when one is cut."""
    position = 0
    try:
        while position < len(data):
            dif = data[position]
            position += 1
            if dif == 0x2F:
                continue
            if dif & 0x0F == 0x0F:
                return
            storage, tariff, subunit, more, place = dif >> 6 & 1, 0, 0, dif & 0x80, 0
            while more:
                dife = data[position]
                position += 1
                storage |= (dife & 0x0F) << (1 + 4 * place)
                tariff |= (dife >> 4 & 3) << (2 * place)
                subunit |= (dife >> 6 & 1) << place
                more, place = dife & 0x80, place + 1
                if place > 10:
                    raise Unusable("more than ten DIFE")
            vifs, position = _vifs(data, position)
            size = _SIZES.get(dif & 0x0F, -1)
            if size < 0:
                size, position = _variable(data[position]), position + 1
            if position + size > len(data):
                raise IndexError
            yield _Record(
                dif >> 4 & 3, storage, tariff, subunit, vifs, dif & 0x0F, data[position : position + size]
            )  # fmt: skip
            position += size
    except IndexError:
        raise Unusable("records end in the middle of one") from None


def _vifs(data: bytes, position: int) -> tuple[bytes, int]:
    """(VIF and VIFEs, position after). Raises IndexError, Unusable."""
    vifs = data[position : position + 1]
    more, position = data[position] & 0x80, position + 1
    words = vifs[0] & 0x7F == _PLAIN_TEXT
    if words and (not more or _are_words(data, position)):  # else behind the VIFEs: the standard has changed its mind
        words, position = False, position + 1 + data[position]
    while more:
        vifs += data[position : position + 1]
        more, position = data[position] & 0x80, position + 1
        if len(vifs) > 11:
            raise Unusable("more than ten VIFE")
    return vifs, position + 1 + data[position] if words else position


def _are_words(data: bytes, position: int) -> bool:
    """Whether a length and so many letters are there."""
    text = data[position + 1 : position + 1 + data[position]]
    return len(text) == data[position] and text.isascii() and text.decode().isprintable()


def _variable(length: int) -> int:
    """Bytes of a variable-length value."""
    if length <= 0xBF:
        return length
    if length <= 0xDF:
        return length & 0x0F
    if length <= 0xEF:
        return length - 0xE0
    raise Unusable("a variable length that is not supported")


def _number(record: _Record) -> tuple[int, int] | None:
    """(value, power of ten) of a record's data; None when it holds none (also BCD with an error digit)."""
    if record.kind in (1, 2, 3, 4, 6, 7):
        return int.from_bytes(record.data, "little", signed=True), 0
    if record.kind == 5:
        try:
            return value_parts(Decimal(format(struct.unpack("<f", record.data)[0], ".7g")))
        except ValueError:
            return None
    if record.kind in (9, 10, 11, 12, 14):
        digits = record.data[::-1].hex()
        negative = digits[0] == "f"
        digits = digits[1:] if negative else digits
        return (-int(digits) if negative else int(digits), 0) if digits.isdecimal() else None
    return None


def _quantity(record: _Record, medium: int, numbers_phases: bool) -> tuple[ReadingType, int, str] | None:
    """(type, power of ten, unit) of a current or dated value; None for what is not read."""
    if record.function or record.subunit or record.kind in (0, 8, 13):
        return None
    first, rest = record.vifs[0] & 0x7F, bytes(v & 0x7F for v in record.vifs[1:])
    if record.vifs[0] == 0xFB:
        found, rest = _extended(rest[0] if rest else 0x7F), rest[1:]
    elif record.vifs[0] == 0xFD:
        found, rest = _electric(rest[0] if rest else 0x7F), rest[1:]
    else:
        found = _primary(first)
    phase = 0
    if numbers_phases and rest[:1] == _OWN and rest[1:2] in _PHASE_NUMBERS and rest[2:] in (b"", _NO_ERROR):
        phase, rest = rest[1], b""
    rest = rest.removesuffix(_NO_ERROR)
    if found is None or rest not in (b"", bytes([_BACKWARD]), b"\x3b"):
        return None
    dimension, power, unit = found
    alias = _alias(dimension, medium, rest == bytes([_BACKWARD]), record.tariff)
    if alias and phase:
        alias = _PHASES[phase].get(alias)
    return (BY_ALIAS[alias], power, unit) if alias else None


def _primary(vif: int) -> tuple[str, int, str] | None:
    n = vif & 7
    match vif >> 3:
        case 0:
            return "energy", n - 3, "Wh"
        case 1:
            return "energy", n, "J"
        case 2:
            return "volume", n - 6, "m3"
        case 5:
            return "power", n - 3, "W"
        case 7:
            return "flow", n - 6, "m3/h"
        case 11:
            return ("flow temperature" if n < 4 else "return temperature"), (n & 3) - 3, "C"
        case 12:
            return ("difference" if n < 4 else "temperature"), (n & 3) - 3, "K" if n < 4 else "C"
    return None


def _extended(vif: int) -> tuple[str, int, str] | None:
    """After FB."""
    match vif >> 1:
        case 0:
            return "energy", (vif & 1) - 1, "MWh"
        case 4:
            return "energy", (vif & 1) - 1, "GJ"
        case 8:
            return "volume", (vif & 1) + 2, "m3"
        case 20:
            return "power", (vif & 1) - 1, "MW"
    return None


def _electric(vif: int) -> tuple[str, int, str] | None:
    """After FD."""
    match vif >> 4:
        case 4:
            return "voltage", (vif & 15) - 9, "V"
        case 5:
            return "current", (vif & 15) - 12, "A"
    return None


_HEAT_ALIASES: Final = {
    "volume": "heat_volume_m3", "power": "heat_power_kw", "flow": "volume_flow_m3h",
    "flow temperature": "flow_temperature_c", "return temperature": "return_temperature_c",
    "difference": "temperature_difference_c", "temperature": "temperature_c",
}  # fmt: skip


def _alias(dimension: str, medium: int, backward: bool, tariff: int) -> str | None:
    if medium == _ELECTRICITY:
        direction = "export" if backward else "import"
        if dimension == "energy" and tariff <= 8:
            return f"{direction}_register_t{tariff}_kwh" if tariff else f"{direction}_register_kwh"
        own = {"power": f"power_{direction}_kw", "voltage": "voltage_v", "current": "current_a"}
        return own.get(dimension) if tariff == 0 else None
    if tariff or backward:
        return None
    if medium in _HEAT or medium in _COOLING:
        energy = "heat_register_gj" if medium in _HEAT else "cooling_register_gj"
        return energy if dimension == "energy" else _HEAT_ALIASES.get(dimension)
    if dimension == "volume":
        return "gas_register_m3" if medium == _GAS else "water_register_m3" if medium in _WATER else None
    return _HEAT_ALIASES.get(dimension) if dimension in ("flow", "temperature", "flow temperature") else None


_PHASES: Final = {
    phase: {
        "power_import_kw": f"power_import_l{phase}_kw", "voltage_v": f"voltage_l{phase}_v",
        "current_a": f"current_l{phase}_a",
    }
    for phase in (1, 2, 3)
}  # fmt: skip


def _time_us(record: _Record, zone: ZoneInfo) -> int | None:
    """The instant of a date record (types F, G, I), microseconds since the epoch; None where there is none."""
    vif, raw = record.vifs[0] & 0x7F, record.data
    if len(record.vifs) > 1 or record.tariff or record.subunit:
        return None
    second = 0
    if vif == 0x6C and record.kind == 2:
        minute = hour = 0
        low, high, summer = raw[0], raw[1], False
    elif vif == 0x6D and record.kind == 4:
        minute, hour, low, high, summer = raw[0] & 0x3F, raw[1] & 0x1F, raw[2], raw[3], bool(raw[1] & 0x80)
        if raw[0] & 0x80:
            return None
    elif vif == 0x6D and record.kind == 6:
        second, minute, hour = raw[0] & 0x3F, raw[1] & 0x3F, raw[2] & 0x1F
        low, high, summer = raw[3], raw[4], bool(raw[0] & 0x40)
        if raw[1] & 0x80:
            return None
    else:
        return None
    year = low >> 5 | (high & 0xF0) >> 1
    try:
        local = datetime(
            2000 + year if year <= 80 else 1900 + year, high & 0x0F, low & 0x1F, hour, minute, second,
            tzinfo=zone, fold=0 if summer else 1,
        )  # fmt: skip
    except ValueError:
        return None
    return timestamp_us(local)


FORMAT: Final = Format(
    "mbus", "wired M-Bus responses (electricity, gas, water, heat)", ("*.mbus",), stream,
    "EN 13757-2 and -3, OMS volume 2 security mode 5",
    "acknowledgements and requests in between, filler bytes, maker's own records, phases by number "
    "(ABB, EMU, Saia-Burgess, Finder), error digits in BCD, values in joules or watt-hours, no clock (time of receipt)",
    "pyMeterBus 0.8.5",
)  # fmt: skip
"""The format as the registry lists it."""
