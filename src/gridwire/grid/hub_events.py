"""What events of the platform's own hubs hold, as types: one table, from which the AsyncAPI document is made.

Where a module has a type of its own for what it tells, that is the type here; the others (readings, meter events,
observations, records of edits and replays) are written straight as JSON, and described here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from gridwire.alerts import SILENCED_HEADER, Acknowledged, Alert, Silenced
from gridwire.broker.alert_rules import Held, RuleState
from gridwire.core import hubs
from gridwire.grid import network_parts, parts
from gridwire.grid.facts import FeederFact, TransformerFact
from gridwire.grid.late import LateReadings
from gridwire.grid.meter_event import KINDS
from gridwire.grid.models.forecasts import ForecastEvent
from gridwire.grid.models.normalising import DemandFact
from gridwire.grid.models.package import Manifest, Promotion
from gridwire.grid.models.risk import RiskFact
from gridwire.grid.vee.events import Verdict
from gridwire.grid.watch.health import HealthFact
from gridwire.grid.weather import RANGES, STATION_MAX

BYTES: Final = "application/octet-stream"

Celsius = Annotated[float, msgspec.Meta(ge=RANGES["temperature_c"][0], le=RANGES["temperature_c"][1])]
Wind = Annotated[float, msgspec.Meta(ge=RANGES["wind_ms"][0], le=RANGES["wind_ms"][1])]
Gust = Annotated[float, msgspec.Meta(ge=RANGES["wind_gust_ms"][0], le=RANGES["wind_gust_ms"][1])]
Percent = Annotated[float, msgspec.Meta(ge=RANGES["humidity_pct"][0], le=RANGES["humidity_pct"][1])]
Radiation = Annotated[float, msgspec.Meta(ge=RANGES["radiation_wm2"][0], le=RANGES["radiation_wm2"][1])]
Station = Annotated[str, msgspec.Meta(min_length=1, max_length=STATION_MAX)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Version = Annotated[int, msgspec.Meta(ge=0, le=8191)]

MeterEventKind = Literal[KINDS]  # type: ignore[valid-type]


class ReadingValue(msgspec.Struct, omit_defaults=True):
    """A reading; see `gridwire.grid.reading`. `value` is kept exactly, up to 18 digits."""

    usage_point: Annotated[str, msgspec.Meta(min_length=1)]
    ts_end: Instant
    reading_type: str
    value: float
    interval_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    meter: str = ""
    quality: str = ""
    flags: int = 0
    source: str = ""
    version: Version = 0
    received_at: Instant | None = None


class MeterEventValue(msgspec.Struct, omit_defaults=True):
    """What happened to a meter; see `gridwire.grid.meter_event`."""

    ts_event: Instant
    kind: MeterEventKind
    event_id: str = ""
    usage_point: str = ""
    meter: str = ""
    event_type: str = ""
    native_code: str = ""
    severity: str = ""
    source: str = ""
    details: dict[str, str] = {}


class ObservationValue(msgspec.Struct, omit_defaults=True):
    """What a weather station measured; see `gridwire.grid.weather`. At least one value is there."""

    station: Station
    ts: Instant
    interval_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    temperature_c: Celsius | None = None
    wind_ms: Wind | None = None
    wind_gust_ms: Gust | None = None
    humidity_pct: Percent | None = None
    radiation_wm2: Radiation | None = None


class NetworkModel(network_parts.Part, frozen=True, kw_only=True):
    """A network model, or one of several parts that follow each other."""


class FeederPart(parts.Part, frozen=True, kw_only=True):
    """What one partition of readings knows of a feeder. Energies are milliwatt-hours; see `gridwire.grid.parts`."""


class ValueBefore(msgspec.Struct):
    """A version that an edit replaces."""

    version: int
    value: float


class ReadingEdit(msgspec.Struct):
    """A value that somebody put in by hand: who, why, and what was there before."""

    usage_point: str
    reading_type: str
    ts_end: Instant
    value: float
    version: int
    by: str
    why: str
    before: list[ValueBefore]


class ReplayBegun(msgspec.Struct):
    """Frames about to be tried again, and where the hubs end that get what is in them."""

    begun: list[str]
    ends: dict[str, dict[str, int]]


class ReplayDone(msgspec.Struct):
    """Frames whose readings and events are durable."""

    done: list[str]


class Raw(msgspec.Struct):
    """Stands for bytes that no schema describes."""


class Party(StrEnum):
    """Who sends to a hub."""

    UTILITY = "utility"
    PLATFORM = "platform"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of event. `headers`: name and what it says."""

    name: str
    shape: type
    about: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HubEvents:
    """One hub. `key`: what events are keyed by. `sent_by`: who tells; the platform reads what the utility sends."""

    about: str
    key: str
    sent_by: Party
    messages: tuple[Message, ...]


def _one(name: str, shape: type, about: str, headers: Mapping[str, str] | None = None) -> tuple[Message, ...]:
    return (Message(name, shape, about, headers or {}),)


_CLOUD_EVENT: Final = {
    "ce_specversion": "1.0", "ce_id": "digest of what is told", "ce_type": "such as gridwire.outage.opened",
    "ce_source": "such as /grid/outages", "ce_subject": "kind and id of what it is about",
    "content-type": "application/json",
}  # fmt: skip
_FINDING: Final = {**_CLOUD_EVENT, "ce_time": "when it was told", SILENCED_HEADER: "name of the silence that covers it"}
_FRAME: Final = {
    "reason": "why it cannot be used", "format": "what it was read as", "source": "file or feed",
    "position": "its first byte in the file", "prelude": "bytes to decode first, base64",
    "more": "the next event goes on", "meter": "id of the device", "zone": "time zone", "received_at": "when it came",
}  # fmt: skip
_PIECE: Final = {"model": "kind and version", "chunk": "number of the piece, from 0", "chunks": "how many there are"}

HUB_EVENTS: Final[Mapping[str, HubEvents]] = {
    hubs.READINGS: HubEvents(
        "Readings of usage points, and estimates where some are missing. Late and repeated ones are welcome.",
        "the transformer where it is known, else the usage point", Party.BOTH,
        _one("reading", ReadingValue, "One measured value of one usage point."),
    ),
    hubs.METER_EVENTS: HubEvents(
        "What happened to meters: last gasps, power back, covers opened.", "the usage point, else the meter",
        Party.UTILITY, _one("meterEvent", MeterEventValue, "One event of one meter."),
    ),
    hubs.WEATHER: HubEvents(
        "Observations of weather stations.", "the station", Party.UTILITY,
        _one("observation", ObservationValue, "What one station measured in one interval."),
    ),
    hubs.NETWORK: HubEvents(
        "Network models: which usage point hangs where, and what it is expected to send. The newest holds.",
        "nothing", Party.UTILITY,
        _one("network", NetworkModel, "A model, or one of several parts that follow each other."),
    ),
    hubs.QUARANTINE: HubEvents(
        "What could not be used, byte for byte.", "nothing", Party.PLATFORM,
        _one("frame", Raw, "A frame, or a piece of one, as it came.", _FRAME),
    ),
    hubs.QUARANTINE_REPLAYS: HubEvents(
        "What was tried again of the quarantine.", "nothing", Party.PLATFORM,
        (*_one("replayBegun", ReplayBegun, "Told before anything is sent."),
         *_one("replayDone", ReplayDone, "Told when everything is durable.")),
    ),
    hubs.TRANSFORMERS: HubEvents(
        "Sums of each transformer by interval; of several of one interval the highest version holds.",
        "the transformer", Party.PLATFORM, _one("transformerFact", TransformerFact, "One transformer in one interval."),
    ),
    hubs.FEEDERS: HubEvents(
        "Sums of each feeder by interval; of several of one interval the highest version holds.",
        "the feeder", Party.PLATFORM, _one("feederFact", FeederFact, "One feeder in one interval."),
    ),
    hubs.FEEDER_PARTS: HubEvents(
        "What each partition of readings knows of feeders above several transformers; between workers.",
        "the feeder", Party.PLATFORM, _one("feederPart", FeederPart, "One feeder's part in one interval."),
    ),
    hubs.LATE: HubEvents(
        "Notes of readings that came when their day had left the window of live sums; between workers.", "nothing",
        Party.PLATFORM, _one("lateReadings", LateReadings, "Where late readings lie, and of which days they are."),
    ),
    hubs.ALERTS: HubEvents(
        "What detectors found. A finding is told again when what is known of it changes: same id, higher version.",
        "the subject", Party.PLATFORM, _one("finding", Alert, "A finding as of one version, a CloudEvent.", _FINDING),
    ),
    hubs.ALERT_NOTES: HubEvents(
        "What people say of findings; compacted.", "ack/ID of the finding, or silence/NAME", Party.BOTH,
        (*_one("acknowledged", Acknowledged, "Somebody has seen a finding.", _CLOUD_EVENT),
         *_one("silenced", Silenced, "Findings of a kind are expected for a while.", _CLOUD_EVENT)),
    ),
    hubs.RULE_STATES: HubEvents(
        "What the worker of alert rules has in mind; compacted.", "a rule, and its subject", Party.PLATFORM,
        (*_one("ruleState", RuleState, "How a rule is."), *_one("held", Held, "A subject that is, or may be, open.")),
    ),
    hubs.HEALTH: HubEvents(
        "The state of each transformer, once an hour.", "the transformer", Party.PLATFORM,
        _one("healthFact", HealthFact, "One transformer at the end of an hour."),
    ),
    hubs.FORECASTS: HubEvents(
        "Forecasts of each transformer and feeder by hour; the one issued last is the best.", "the unit",
        Party.PLATFORM, _one("forecast", ForecastEvent, "One unit, issue and hour."),
    ),
    hubs.DEMAND: HubEvents(
        "What each transformer and feeder used on a day, and would have in normal weather.", "the unit", Party.PLATFORM,
        _one("demandFact", DemandFact, "One unit on one day."),
    ),
    hubs.RISK: HubEvents(
        "How probable the failure of each transformer is, by day.", "the transformer", Party.PLATFORM,
        _one("riskFact", RiskFact, "One transformer on a day that has ended."),
    ),
    hubs.VEE: HubEvents(
        "Verdicts of validation and estimation; of several of one interval the newest holds.",
        "the transformer", Party.PLATFORM, _one("verdict", Verdict, "One interval of one channel."),
    ),
    hubs.READING_EDITS: HubEvents(
        "Values that somebody put in by hand; kept for ever.", "the usage point", Party.UTILITY,
        _one("readingEdit", ReadingEdit, "One edit, told before it counts."),
    ),
    hubs.MODELS: HubEvents(
        "Trained models: their arrays in pieces, then the manifest, and who is promoted.", "nothing", Party.UTILITY,
        (*_one("modelPiece", Raw, "A piece of an .npz file.", _PIECE),
         *_one("modelManifest", Manifest, "What is known of the model before it."),
         *_one("modelPromotion", Promotion, "Which model of a kind is in effect from here on.")),
    ),
}  # fmt: skip
"""By hub; all of `gridwire.core.hubs.TEMPLATES`."""
