"""`gridwire export`."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from cyclopts import App

from gridwire.core.errors import InvalidSetting

export = App(name="export", help="Readings of the lake as files of the formats other systems take.")


@export.command
def nem12(start: str, end: str, *, usage_point: list[str] | None = None, data: Path = Path("gridwire-data")) -> None:
    """Write NEM12 to standard output. Usage points must be NMIs; energies of an interval are written.

    Args:
        start: intervals that end after this time, RFC 3339 with an offset.
        end: intervals that end not after this time.
        usage_point: these alone; may be repeated.
        data: the data directory whose lake is read.
    """
    _write("NEM12", start, end, usage_point, data)


@export.command
def cim(start: str, end: str, *, usage_point: list[str] | None = None, data: Path = Path("gridwire-data")) -> None:
    """Write IEC 61968-9 MeterReadings (XML) to standard output.

    Args:
        start: readings that end after this time, RFC 3339 with an offset.
        end: readings that end not after this time.
        usage_point: these alone; may be repeated.
        data: the data directory whose lake is read.
    """
    _write("CIM", start, end, usage_point, data)


@export.command
def espi(start: str, end: str, *, usage_point: list[str] | None = None, data: Path = Path("gridwire-data")) -> None:
    """Write Green Button (ESPI) XML to standard output.

    Args:
        start: readings that end after this time, RFC 3339 with an offset.
        end: readings that end not after this time.
        usage_point: these alone; may be repeated.
        data: the data directory whose lake is read.
    """
    _write("ESPI", start, end, usage_point, data)


def _write(name: str, start: str, end: str, usage_points: list[str] | None, data: Path) -> None:
    from gridwire.grid import exports

    exporter: exports.Exporter = getattr(exports, name)
    found = exports.read(data / "lake", exporter.types, _time(start), _time(end), usage_points or ())
    for text in exporter.write(found):
        sys.stdout.write(text)


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidSetting(f"{text!r} is no time with an offset, such as 2026-01-01T00:00:00Z")
    return moment
