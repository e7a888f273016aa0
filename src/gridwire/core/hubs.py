"""Hubs with a meaning of their own: their names, and the settings they are created with when nobody says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

READINGS: Final = "readings"
QUARANTINE: Final = "quarantine"
QUARANTINE_REPLAYS: Final = "quarantine.replays"
METER_EVENTS: Final = "meter.events"
TRANSFORMERS: Final = "grid.transformers"
FEEDERS: Final = "grid.feeders"
NETWORK: Final = "grid.network"
FEEDER_PARTS: Final = "grid.feeder-parts"
LATE: Final = "grid.late"
ALERTS: Final = "grid.alerts"
ALERT_NOTES: Final = "grid.alert-notes"
RULE_STATES: Final = "grid.rule-states"
FORECASTS: Final = "grid.forecasts"
HEALTH: Final = "grid.health"
DEMAND: Final = "grid.demand"
RISK: Final = "grid.risk"
MODELS: Final = "models"
WEATHER: Final = "weather"
VEE: Final = "grid.vee"
READING_EDITS: Final = "reading.edits"

NOT_COPIED: Final = frozenset({"capture", "capture_avro", "decode", "timestamp_type"})
"""Settings of what happens to events: a copy's events have had it happen to them, and their times stay."""

_DAY_MS: Final = 24 * 3600 * 1000

TEMPLATES: Final[Mapping[str, Mapping[str, Any]]] = {
    # Append time: one client with a wrong clock must not move the window of live sums.
    READINGS: {"capture": "readings", "retention_ms": 30 * _DAY_MS, "timestamp_type": "append"},
    METER_EVENTS: {"capture": "events", "retention_ms": 90 * _DAY_MS, "timestamp_type": "append"},
    QUARANTINE: {"capture": "events", "retention_ms": 90 * _DAY_MS},
    QUARANTINE_REPLAYS: {"retention_ms": 120 * _DAY_MS},  # outlives what it is about
    TRANSFORMERS: {"capture": "loads", "retention_ms": 30 * _DAY_MS},
    FEEDERS: {"capture": "loads", "retention_ms": 30 * _DAY_MS},
    FEEDER_PARTS: {"retention_ms": 30 * _DAY_MS},
    LATE: {"retention_ms": 30 * _DAY_MS},
    NETWORK: {"capture": "events", "retention_ms": -1},
    ALERTS: {"capture": "events", "retention_ms": 365 * _DAY_MS},
    ALERT_NOTES: {"cleanup": "compact", "retention_ms": -1, "timestamp_type": "append"},
    RULE_STATES: {"cleanup": "compact", "retention_ms": -1},
    HEALTH: {"capture": "health", "retention_ms": 90 * _DAY_MS},
    FORECASTS: {"capture": "forecasts", "retention_ms": 30 * _DAY_MS},
    DEMAND: {"capture": "demand", "retention_ms": 365 * _DAY_MS},
    RISK: {"capture": "risk", "retention_ms": 365 * _DAY_MS},
    READING_EDITS: {"capture": "events", "retention_ms": -1},
    VEE: {"capture": "events", "retention_ms": 90 * _DAY_MS},
    MODELS: {"retention_ms": -1},
    WEATHER: {"capture": "weather", "retention_ms": 365 * _DAY_MS, "timestamp_type": "append"},
}
"""Settings by hub name."""

SINGLE_PARTITION: Final = frozenset(
    {NETWORK, QUARANTINE, QUARANTINE_REPLAYS, LATE, MODELS, WEATHER, ALERT_NOTES, RULE_STATES}
)
"""Hubs whose order as a whole matters more than their rate."""


def group_of(app: str, function: str) -> str:
    """The consumer group of a function: its position in the hub, which nobody else moves."""
    return f"fn.{app}.{function}"


def dead_letters_of(app: str, function: str) -> str:
    """The hub of events that a function could not deal with."""
    return f"dlq.{app}.{function}"


def again_of(app: str, function: str) -> str:
    """The hub through which dead letters come back to the function that failed, and to nobody else."""
    return f"again.{app}.{function}"


ALERT_ROUTE: Final = "alert-route"
"""Stands in the place of an app's name in the hubs of a route of alerts: `dlq.alert-route.NAME`."""


def route_group(name: str, id: str) -> str:
    """The consumer group of a route of alerts; a route made anew under the same name has another one."""
    return f"{ALERT_ROUTE}.{name}.{id}"


def timers_of(app: str) -> str:
    """The hub without events whose only partition is the lease of an app's timers, and the group that has it."""
    return f"timers.{app}"
