"""Settings of one hub: one table, from which validation, documentation and every protocol's names derive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gridwire.core.errors import InvalidSetting
from gridwire.core.limits import BATCH_BYTES_MAX, MIB

UNLIMITED: Final = -1

FRAME_FORMATS: Final = (
    "dsmr", "han", "dlms", "sml", "mbus", "nem12", "espi", "cim", "cim-json", "senml", "senml-cbor", "mapped",
    "weather-epw", "weather-json", "weather-csv", "json", "csv",
)  # fmt: skip
"""Formats whose frames mean something each by itself; Sparkplug's do not."""


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set per hub; the defaults hold until somebody says otherwise."""

    retention_ms: int = 7 * 24 * 3600 * 1000
    retention_bytes: int = UNLIMITED
    segment_bytes: int = 128 * MIB
    segment_ms: int = 7 * 24 * 3600 * 1000
    message_bytes_max: int = 8 * MIB
    cleanup: str = "delete"
    compact_dirty_percent: int = 50
    compact_lag_ms: int = 0
    tombstone_retention_ms: int = 24 * 3600 * 1000
    timestamp_type: str = "create"
    capture: str = "off"
    capture_avro: str = "off"
    decode: str = "off"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One row of the table: our name, Kafka's topic config, bounds or choices, help."""

    name: str
    kafka: str
    help: str
    least: int = 0
    most: int = 2**62
    choices: tuple[str, ...] = ()


NOT_KAFKAS: Final = "gridwire."
"""What the names of configs begin with that no Kafka broker knows."""

HUB_SETTINGS: Final = (
    SettingRow("retention_ms", "retention.ms", "keep events this many milliseconds; -1 keeps them for ever", UNLIMITED),
    SettingRow("retention_bytes", "retention.bytes", "keep this many bytes per partition; -1 is unlimited", UNLIMITED),
    SettingRow("segment_bytes", "segment.bytes", "start a new segment file after this many bytes", 64 * 1024, 2**30),
    SettingRow("segment_ms", "segment.ms", "start a new segment file after this many milliseconds", 1000),
    SettingRow("message_bytes_max", "max.message.bytes", "largest record batch accepted", 1024, BATCH_BYTES_MAX),
    SettingRow(
        "cleanup",
        "cleanup.policy",
        "delete: drop old segments; compact: keep the last event of every key; or both",
        choices=("delete", "compact", "compact,delete"),
    ),
    SettingRow(
        "compact_dirty_percent",
        "min.cleanable.dirty.ratio",
        "compact once this share of a partition's sealed bytes was not compacted yet; in percent, a ratio in Kafka",
        0,
        100,
    ),
    SettingRow("compact_lag_ms", "min.compaction.lag.ms", "leave events alone until they are this old"),
    SettingRow(
        "tombstone_retention_ms",
        "delete.retention.ms",
        "keep an event without a value, which deletes its key, this long after it was compacted",
    ),
    SettingRow("timestamp_type", "message.timestamp.type", "whose clock stamps events", choices=("create", "append")),
    SettingRow(
        "capture",
        "gridwire.capture",
        "table the lake keeps of this hub",
        choices=("off", "events", "readings", "loads", "health", "weather", "forecasts", "demand", "risk"),
    ),
    SettingRow(
        "capture_avro",
        "gridwire.capture.avro",
        "also keep this hub's events as Avro files in the layout of Event Hubs Capture",
        choices=("off", "on"),
    ),
    SettingRow(
        "decode",
        "gridwire.decode",
        "format of the meter frames that are this hub's events: they are decoded to the hub readings as they arrive",
        choices=("off", *FRAME_FORMATS),
    ),
)

_ROWS: Final = {row.name: row for row in HUB_SETTINGS}


def with_changes(base: HubSettings, changes: Mapping[str, Any]) -> HubSettings:
    """Return `base` with `changes` applied and checked. Values may be text, as the Kafka admin API sends them.

    Raises:
        InvalidSetting: an unknown name, or a value out of its range.
    """
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        row = _ROWS.get(name)
        if row is None:
            raise InvalidSetting(f"unknown hub setting {name!r}: choose from {', '.join(_ROWS)}")
        checked[name] = _choice(row, value) if row.choices else _whole(row, value)
    return msgspec.structs.replace(base, **checked)


_TIMESTAMP_TYPES: Final = {"CreateTime": "create", "LogAppendTime": "append"}
_SHOWN_TYPES: Final = {ours: theirs for theirs, ours in _TIMESTAMP_TYPES.items()}


def from_topic_config(row: SettingRow, value: str) -> Any:
    """A value of Kafka's topic config as ours; still to be checked. Raises InvalidSetting."""
    if row.name == "timestamp_type":
        return _TIMESTAMP_TYPES.get(value, value)
    if row.name == "compact_dirty_percent":
        try:
            return round(float(value) * 100)
        except (ValueError, OverflowError):
            raise InvalidSetting(f"{row.kafka} must be a number from 0 to 1, not {value!r}") from None
    if row.name == "cleanup":  # both at once may come in any order
        return ",".join(sorted({each.strip() for each in value.split(",")}))
    return value


def to_topic_config(row: SettingRow, value: Any) -> str:
    """A value of ours as Kafka's topic config."""
    if row.name == "timestamp_type":
        return _SHOWN_TYPES[value]
    return str(value / 100) if row.name == "compact_dirty_percent" else str(value)


def topic_configs(settings: HubSettings, names: Iterable[str]) -> dict[str, str]:
    """Settings of these names as Kafka's topic configs; what no Kafka broker knows is left out."""
    rows = (_ROWS[name] for name in names)
    return {row.kafka: to_topic_config(row, getattr(settings, row.name))
            for row in rows if not row.kafka.startswith(NOT_KAFKAS)}  # fmt: skip


def _choice(row: SettingRow, value: Any) -> str:
    if value not in row.choices:
        raise InvalidSetting(f"{row.name} must be one of {', '.join(row.choices)}, not {value!r}")
    return str(value)


def _whole(row: SettingRow, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise InvalidSetting(f"{row.name} must be a whole number, not {value!r}") from None
    if not row.least <= number <= row.most:
        raise InvalidSetting(f"{row.name} must lie between {row.least} and {row.most}, not {number}")
    return number
