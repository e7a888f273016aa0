"""All formats by name. A decoder's library is imported only when its format is asked for."""

from __future__ import annotations

from fnmatch import fnmatch
from importlib import import_module
from pathlib import PurePath
from typing import Final

from gridwire.core.errors import Unsupported
from gridwire.grid.formats.base import Format

_PLACES: Final = {
    "dsmr": ("dsmr", "FORMAT"),
    "han": ("han", "FORMAT"),
    "dlms": ("dlms", "FORMAT"),
    "sml": ("sml", "FORMAT"),
    "mbus": ("mbus", "FORMAT"),
    "nem12": ("nem12", "FORMAT"),
    "espi": ("espi", "FORMAT"),
    "cim": ("cim", "XML"),
    "senml": ("senml", "JSON"),
    "senml-cbor": ("senml", "CBOR"),
    "sparkplug": ("sparkplug", "FORMAT"),
    "cim-json": ("cim", "JSON"),
    "mapped": ("mapped", "FORMAT"),
    "weather-epw": ("weather", "EPW"),
    "weather-json": ("weather", "JSON"),
    "weather-csv": ("weather", "CSV"),
    "json": ("rows", "JSON"),  # last: their names fit many files
    "csv": ("rows", "CSV"),
}

NAMES: Final = tuple(_PLACES)
"""Names of all formats."""


def get(name: str) -> Format:
    """The format of that name.

    Raises:
        Unsupported: there is none.
    """
    place = _PLACES.get(name)
    if place is None:
        raise Unsupported(f"unknown format {name!r}: choose from {', '.join(NAMES)}")
    module, attribute = place
    found: Format = getattr(import_module(f"gridwire.grid.formats.{module}"), attribute)
    return found


def by_file(path: str | PurePath) -> Format | None:
    """The format a file's name suggests; None when it suggests none."""
    name = PurePath(path).name.lower()
    for format in map(get, NAMES):
        if any(fnmatch(name, glob) for glob in format.globs):
            return format
    return None
