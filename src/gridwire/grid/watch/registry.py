"""All detectors by name, in the order they are asked. A detector is imported only when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final

from gridwire.core.errors import Unsupported
from gridwire.core.hubs import HEALTH
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.base import Detector

_PLACES: Final[dict[str, tuple[str, str]]] = {
    "outages": ("outages", "Outages"),
    "health": ("health", "Health"),
    "voltage": ("voltage", "Voltage"),
    "losses": ("losses", "Losses"),
    "mapping": ("mapping", "Mapping"),
    "demand": ("demand", "DemandDetector"),
    "storm": ("storm", "StormDetector"),
}

NAMES: Final = tuple(_PLACES)
"""Names of all detectors."""

HUBS: Final = (HEALTH,)
"""Hubs that detectors tell facts to."""


def make(names: Sequence[str], index: NetworkIndex) -> list[Detector]:
    """Detectors of these names for one network model, with their default settings.

    Raises:
        Unsupported: there is no detector of a name.
    """
    return [_factory(name)(index) for name in names]


def _factory(name: str) -> type[Detector]:
    place = _PLACES.get(name)
    if place is None:
        raise Unsupported(f"unknown detector {name!r}: choose from {', '.join(NAMES)}")
    module, attribute = place
    found: type[Detector] = getattr(import_module(f"gridwire.grid.watch.{module}"), attribute)
    return found
