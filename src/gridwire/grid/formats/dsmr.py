"""DSMR P1 telegrams: DSMR 2.2 to 5, Fluvius (BE), Smarty (LU) and relatives.

    /ISk5\\2MT382-1000          identification
                               empty line
    0-0:1.0.0(170102192002W)   OBIS code, then values with units in parentheses; S is summer time, W is winter time
    1-0:1.8.1(000004.426*kWh)
    0-1:24.2.1(170102161005W)(00000.107*m3)    a device behind the meter, on channel 1, with its own time
    !6EEE                      CRC-16 over everything from / to !; DSMR 2.2 and 3 have none

Times carry their own offset by the S/W flag, which is believed. DSMR 2.2 and 3 telegrams have no clock and need the
time of receipt. Telegrams in AES-GCM (Luxembourg, Sagemcom T210-D) are opened with the key of their system title:

    DB  08 system-title(8)  82 length(2)  30 counter(4)  telegram ...  tag(12)

Source: DSMR P1 companion standard 5.0.2, sections 5 and 6; Smarty P1 specification (AES-GCM).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final

from dsmr_parser import telegram_specifications
from dsmr_parser.parsers import TelegramParser
from fastcrc import crc16

from gridwire.grid.formats import dlms, framing
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Unusable, items
from gridwire.grid.formats.keys import MeterKey
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import BY_ALIAS, ReadingType

logging.getLogger("dsmr_parser").addHandler(logging.NullHandler())  # its complaints become reasons, not output

TELEGRAM_BYTES_MAX: Final = 32 * 1024
"""Telegrams have some 1 to 4 KiB; without an end after this many bytes the start was none."""

_SEALED = b"\xdb\x08"
_SEALED_HEAD_BYTES = 13
_PUBLIC_KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
"""Of authentication: Luxembourg's meters all have this one."""

_END = re.compile(rb"(?:\A|\n)!([^\r\n]{0,8})\r?\n")
_END_OF_STREAM = re.compile(rb"(?:\A|\n)!([^\r\n]{0,8})\r?\Z")
_BLANK = b" \t\r\n\x00"
_HOUR_US = 3_600_000_000

_TOTALS = {
    "ELECTRICITY_IMPORTED_TOTAL": "import_register_kwh",
    "ELECTRICITY_EXPORTED_TOTAL": "export_register_kwh",
    "ELECTRICITY_REACTIVE_IMPORTED_TOTAL": "import_register_kvarh",
    "ELECTRICITY_REACTIVE_EXPORTED_TOTAL": "export_register_kvarh",
    "CURRENT_ELECTRICITY_USAGE": "power_import_kw",
    "CURRENT_ELECTRICITY_DELIVERY": "power_export_kw",
    "CURRENT_REACTIVE_IMPORTED": "reactive_import_kvar",
    "CURRENT_REACTIVE_EXPORTED": "reactive_export_kvar",
    "EON_HU_INSTANTANEOUS_POWER_FACTOR_TOTAL": "power_factor",
    "EON_HU_FREQUENCY": "frequency_hz",
}
_TARIFFS = {
    f"ELECTRICITY_{name}_TARIFF_{tariff}": f"{direction}_register_t{tariff}_kwh"
    for name, direction in (("USED", "import"), ("DELIVERED", "export"))
    for tariff in (1, 2, 3, 4)
}
_PHASES = {
    name.format(phase): alias.format(phase)
    for name, alias in (
        ("INSTANTANEOUS_VOLTAGE_L{}", "voltage_l{}_v"),
        ("INSTANTANEOUS_CURRENT_L{}", "current_l{}_a"),
        ("INSTANTANEOUS_ACTIVE_POWER_L{}_POSITIVE", "power_import_l{}_kw"),
        ("INSTANTANEOUS_ACTIVE_POWER_L{}_NEGATIVE", "power_export_l{}_kw"),
        ("INSTANTANEOUS_REACTIVE_POWER_L{}_POSITIVE", "reactive_import_l{}_kvar"),
        ("INSTANTANEOUS_REACTIVE_POWER_L{}_NEGATIVE", "reactive_export_l{}_kvar"),
        ("EON_HU_INSTANTANEOUS_POWER_FACTOR_L{}", "power_factor_l{}"),
    )
    for phase in (1, 2, 3)
}
_TYPE_OF_NAME: Final = {name: BY_ALIAS[alias] for name, alias in (_TOTALS | _TARIFFS | _PHASES).items()}
"""Reading types by the parser's names."""

_TYPE_OF_DEVICE: Final = {
    3: BY_ALIAS["gas_register_m3"], 4: BY_ALIAS["heat_register_gj"], 6: BY_ALIAS["water_register_m3"],
    7: BY_ALIAS["water_register_m3"], 12: BY_ALIAS["heat_register_gj"],
}  # fmt: skip
"""Reading types by M-Bus device type, EN 13757-3."""

_PREFIXES = {"wh": ("kWh", -3), "w": ("kW", -3), "varh": ("kvarh", -3), "var": ("kvar", -3), "mj": ("GJ", -3)}
_METER_NAMES = (
    "EQUIPMENT_IDENTIFIER", "BELGIUM_EQUIPMENT_IDENTIFIER", "LUXEMBOURG_EQUIPMENT_IDENTIFIER",
    "Q3D_EQUIPMENT_SERIALNUMBER", "Q3D_EQUIPMENT_IDENTIFIER",
)  # fmt: skip
_DEVICE_NAMES = ("MBUS_EQUIPMENT_IDENTIFIER", "EQUIPMENT_IDENTIFIER_GAS")
_DEVICE_READINGS = ("MBUS_METER_READING", "HOURLY_GAS_METER_READING", "GAS_METER_READING")


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode telegrams out of a byte stream; see `base.Format.stream`."""
    source = framing.Pushback(chunks, len(_SEALED))
    if source.peek().startswith(_SEALED):
        pieces = framing.cut(source, _next_sealed)
        return items(pieces, lambda raw, position: Decoded(_sealed_readings(raw, context), position))
    plain = ((raw, position, raw, reason) for raw, position, reason in _split(source))
    return items(plain, lambda raw, position: Decoded(_readings(raw, context), position))


def _next_sealed(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    """The encrypted telegram at the front; see `framing.NextPiece`."""
    if _SEALED.startswith(bytes(buffer[:2])):
        if len(buffer) < _SEALED_HEAD_BYTES and not ended:
            return None
        size = _SEALED_HEAD_BYTES + int.from_bytes(buffer[_SEALED_HEAD_BYTES - 2 : _SEALED_HEAD_BYTES], "big")
        if buffer[10:11] == b"\x82" and size <= TELEGRAM_BYTES_MAX:
            if size <= len(buffer):
                return size, bytes(buffer[:size]), ""
            if not ended:
                return None
    return framing.rubbish_bytes(buffer, _SEALED, ended), b"", "no encrypted telegram, or it ends early"


def _sealed_readings(raw: bytes, context: Context) -> tuple[Reading, ...]:
    """Readings of an encrypted telegram; it names no meter at times, and is then known by its system title."""
    sealed, key = dlms.unpacked(raw, context)
    return _readings(_opened(sealed, key), replace(context, meter=context.meter or sealed.title.hex()))


def _opened(sealed: dlms.Sealed, key: MeterKey) -> bytes:
    """The telegram. Who has no key of authentication is left with the public one, else with the telegram's CRC."""
    if key.authentication:
        return dlms.opened(sealed, key)
    try:
        return dlms.opened(sealed, replace(key, authentication=_PUBLIC_KEY))
    except Unusable:
        telegram = dlms.opened_unverified(sealed, key)
        if not telegram.startswith(b"/"):
            raise
        return telegram


def _split(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int, str]]:
    """Yield (bytes, position, reason); the reason is "" for a whole telegram."""
    buffer = bytearray()
    position = 0
    for chunk in chunks:
        buffer += chunk
        while buffer:
            size, reason = _next(buffer, _END)
            if size == 0:
                break
            yield from _piece(buffer[:size], position, reason)
            del buffer[:size]
            position += size
    while buffer:
        size, reason = _next(buffer, _END_OF_STREAM)
        if size == 0:
            size, reason = len(buffer), "telegram ends before its checksum line"
        yield from _piece(buffer[:size], position, reason)
        del buffer[:size]
        position += size


def _next(buffer: bytearray, pattern: re.Pattern[bytes]) -> tuple[int, str]:
    """(size, reason) of the piece at the front of the buffer; size 0 when more bytes are needed."""
    start = buffer.find(b"/")
    if start != 0:
        return (start if start > 0 else len(buffer)), "bytes outside any telegram"
    end = pattern.search(buffer)
    if end is None and pattern is _END_OF_STREAM:
        end = _END.search(buffer)
    size = end.end() if end else 0
    restart = buffer.find(b"\n/", 1, size or len(buffer))
    if restart >= 0:
        return restart + 1, "telegram is cut short by the next one"
    if max(size, 0 if end else len(buffer)) > TELEGRAM_BYTES_MAX:
        return TELEGRAM_BYTES_MAX, f"no end of telegram within {TELEGRAM_BYTES_MAX} bytes"
    return size, ""


def _piece(data: bytearray, position: int, reason: str) -> Iterator[tuple[bytes, int, str]]:
    if not reason or data.strip(_BLANK):
        yield bytes(data), position, reason


def _readings(raw: bytes, context: Context) -> tuple[Reading, ...]:
    if b"\r\n" not in raw:  # a capture saved with other line ends: the checksum was made over CR LF
        raw = raw.replace(b"\n", b"\r\n")
    text = raw.decode("latin-1")
    specification = _specification(text)
    _check_crc(raw, bool(getattr(telegram_specifications, specification)["checksum_support"]))
    telegram = _parser(specification).parse(text)
    meter = _meter(telegram, text, context)
    ts_us = _time(text, context)
    found = [
        _reading(_TYPE_OF_NAME[name], value.value, value.unit, ts_us, meter, context)
        for name, value in telegram
        if name in _TYPE_OF_NAME and value.value is not None
    ]
    found += [_device_reading(device, text, meter, context) for device in getattr(telegram, "MBUS_DEVICES", ())]
    readings = tuple(reading for reading in found if reading is not None)
    if not readings:
        raise Unusable("telegram carries no reading")
    return readings


def _specification(text: str) -> str:
    """Which dialect, by what only it has."""
    if "0-0:96.1.4(" in text:
        return "BELGIUM_FLUVIUS"
    if text.startswith("/ESY5Q3D"):
        return "Q3D"
    version = re.search(r"^1-3:0\.2\.8\((\d+)\)", text, re.MULTILINE)
    if version is None:
        return "SWEDEN" if re.search(r"^1-0:1\.8\.0\(", text, re.MULTILINE) else "V2_2"
    if version[1].startswith("4"):
        return "V4"
    if re.search(r"^1-0:1\.8\.0\(\d+\*Wh\)", text, re.MULTILINE):
        return "SAGEMCOM_T210_D_R"
    if re.search(r"^1-0:14\.7\.0\(", text, re.MULTILINE):
        return "EON_HUNGARY"
    return "LUXEMBOURG_SMARTY"  # DSMR 5 and the totals that Luxembourg and others add


@cache
def _parser(specification: str) -> TelegramParser:
    plain = {**getattr(telegram_specifications, specification), "general_global_cipher": False}
    return TelegramParser(plain, apply_checksum_validation=False)


def _check_crc(raw: bytes, required: bool) -> None:
    """Old telegrams need no checksum, but one that is there must be right."""
    content, _, sent = raw.rstrip(_BLANK).rpartition(b"!")
    if not sent and not required:
        return
    if not re.fullmatch(rb"[0-9A-Fa-f]{4}", sent):
        raise Unusable("telegram has no CRC-16")
    if crc16.arc(content + b"!") != int(sent, 16):
        raise Unusable("CRC-16 of the telegram does not match its bytes")


def _meter(telegram: Any, text: str, context: Context) -> str:
    for name in _METER_NAMES:
        value = getattr(getattr(telegram, name, None), "value", None)
        if value:
            return _plain(str(value))
    line = re.search(r"^0-0:96\.1\.1\((\w+)\)", text, re.MULTILINE)  # not every dialect's specification has it
    if line is not None:
        return _plain(line[1])
    if context.meter:
        return context.meter
    raise Unusable("telegram names no meter: give its id")


def _plain(identifier: str) -> str:
    """Identifiers are usually ASCII in hexadecimal; those that are not stay as sent."""
    try:
        plain = bytes.fromhex(identifier).decode("ascii")
    except ValueError:
        return identifier
    return plain if plain.isprintable() and plain.strip() else identifier


def _time(text: str, context: Context) -> int:
    stamp = re.search(r"^0-0:1\.0\.0\(([^)]*)\)", text, re.MULTILINE)
    if stamp is not None:
        ts_us = _stamp_us(stamp[1])
        if ts_us is None:
            raise Unusable(f"telegram's clock shows {stamp[1][:20]!r}, which is no time")
        return ts_us
    if context.received_at_us is None:
        raise Unusable("telegram has no clock: give the time of receipt")
    return context.received_at_us


def _stamp_us(stamp: str) -> int | None:
    """`YYMMDDhhmmssX` as microseconds since the epoch; X is S (UTC+2) or W (UTC+1)."""
    if len(stamp) != 13 or stamp[-1] not in "SW":
        return None
    try:
        local = datetime.strptime(stamp[:12], "%y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return timestamp_us(local) - _HOUR_US * (2 if stamp[-1] == "S" else 1)


def _device_reading(device: Any, text: str, meter: str, context: Context) -> Reading | None:
    """The reading of a device behind the meter; None when it has none or is of an unknown kind."""
    kind = getattr(getattr(device, "MBUS_DEVICE_TYPE", None) or getattr(device, "DEVICE_TYPE", None), "value", None)
    type = _TYPE_OF_DEVICE.get(int(kind)) if kind is not None else None
    value = next((getattr(device, name) for name in _DEVICE_READINGS if hasattr(device, name)), None)
    if type is None or value is None or value.value is None:
        return None
    stamp = re.search(rf"^0-{device.channel_id}:24\.2\.[13]\((\d{{12}}[SW])\)", text, re.MULTILINE)
    ts_us = _stamp_us(stamp[1]) if stamp else None
    if ts_us is None:
        if value.datetime is None:
            return None
        ts_us = timestamp_us(value.datetime)  # DSMR 2.2 and 3: local time without a flag
    identifier = next((getattr(device, name).value for name in _DEVICE_NAMES if hasattr(device, name)), None)
    own = _plain(str(identifier)) if identifier else f"{meter}/{device.channel_id}"
    return _reading(type, value.value, value.unit, ts_us, own, context)


def _reading(
    type: ReadingType, number: Decimal, unit: str | None, ts_us: int, meter: str, context: Context
) -> Reading | None:
    """One reading in the unit of its type; None when the telegram's unit does not measure the same."""
    own_unit, shift = _PREFIXES.get((unit or type.unit).lower(), (unit or type.unit, 0))
    if own_unit.lower() != type.unit.lower():
        return None
    value, scale = value_parts(number)
    return Reading(ts_us, type.id, value, scale + shift, meter=meter, source=context.source)


FORMAT: Final = Format(
    "dsmr", "DSMR P1 telegrams (Netherlands, Belgium, Luxembourg, relatives)", ("*.dsmr", "*.p1", "*.telegram"), stream,
    "DSMR P1 companion standard 2.2 to 5.0.2, Fluvius, Smarty; AES-GCM",
    "other line ends, a missing clock (2.2 and 3), national extra fields, watts for kilowatts",
    "dsmr-parser (it decodes the telegrams; captures of several makers)",
)  # fmt: skip
"""The format as the registry lists it."""
