"""`gridwire export`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from gridwire.cli.durations import moment


def export(
    format: Literal["nem12", "espi", "cim"],
    start: str,
    end: str,
    *,
    usage_point: list[str] | None = None,
    data: Path = Path("gridwire-data"),
) -> None:
    """Write readings of the lake to standard output, as other systems take them.

    Args:
        format: nem12 (usage points must be NMIs, energies of an interval are written), espi (Green Button XML) or
            cim (IEC 61968-9 MeterReadings, XML).
        start: readings that end after this time, RFC 3339 with an offset.
        end: readings that end not after this time.
        usage_point: these alone; may be repeated.
        data: the data directory whose lake is read.
    """
    from gridwire.grid import exports

    exporter = exports.EXPORTERS[format]
    found = exports.read(data / "lake", exporter.types, moment(start), moment(end), usage_point or ())
    with TemporaryFile(
        "w+", encoding="utf-8", newline=""
    ) as whole:  # what a format cannot tell must not leave half a file
        whole.writelines(exporter.write(found))
        whole.seek(0)
        shutil.copyfileobj(whole, sys.stdout)
