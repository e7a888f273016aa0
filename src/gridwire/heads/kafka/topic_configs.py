"""Kafka's topic configs in terms of hub settings: the names and values clients send, and those they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gridwire.broker.port import HubInfo
from gridwire.core.errors import InvalidSetting
from gridwire.core.settings import HUB_SETTINGS, HubSettings, SettingRow, from_topic_config, to_topic_config
from gridwire.wire.kafka.compiler import Struct

DEFAULT_CONFIG: Final = 5
DYNAMIC_TOPIC_CONFIG: Final = 1
STATIC_BROKER_CONFIG: Final = 4

_STRING: Final = 2
_LONG: Final = 5
_LIST: Final = 7

_BY_KAFKA: Final = {row.kafka: row for row in HUB_SETTINGS}
NAMES: Final = tuple(_BY_KAFKA)
"""Configs that can be changed."""

_LISTS: Final = frozenset({"cleanup.policy"})
"""Configs that are lists, as Kafka has them."""

_DEFAULTS: Final = HubSettings()

FIXED: Final = {
    "compression.type": "producer",
    "min.insync.replicas": "1",
    "unclean.leader.election.enable": "false",
    "preallocate": "false",
    "remote.storage.enable": "false",
}
"""Configs that can only be what they are here; setting them to that is accepted, as tools do so by habit."""


def settings_of(configs: Mapping[str, str | None]) -> dict[str, Any]:
    """Hub settings for topic configs; None asks for the default.

    Raises:
        InvalidSetting: a config that does not exist here, or a fixed one with another value.
    """
    changes: dict[str, Any] = {}
    for name, value in configs.items():
        if name in FIXED:
            if value not in (None, FIXED[name]):
                raise InvalidSetting(f"{name} can only be {FIXED[name]} here, not {value}")
            continue
        row = _BY_KAFKA.get(name)
        if row is None:
            raise InvalidSetting(f"unknown topic config {name!r}: choose from {', '.join(_BY_KAFKA)}")
        if value is None:
            changes[row.name] = getattr(_DEFAULTS, row.name)
        else:
            changes[row.name] = from_topic_config(row, value)
    return changes


def changed_list(hub: HubInfo, name: str, value: str, *, append: bool) -> str:
    """What a list is once the items of `value` are added to it, or taken out. Raises InvalidSetting."""
    if name not in _LISTS:
        raise InvalidSetting(f"{name} is not a list: set or delete it")
    items = _shown(_BY_KAFKA[name], hub.settings).split(",")
    given = [each.strip() for each in value.split(",")]
    left = [*items, *given] if append else [each for each in items if each not in given]
    if not left:
        raise InvalidSetting(f"{name} cannot be empty")
    return ",".join(left)


def _shown(row: SettingRow, settings: HubSettings) -> str:
    return to_topic_config(row, getattr(settings, row.name))


def _type(row: SettingRow) -> int:
    if row.kafka in _LISTS:
        return _LIST
    return _STRING if row.choices else _LONG


def describe(hub: HubInfo, wanted: set[str] | None, *, synonyms: bool, documentation: bool) -> list[Struct]:
    """Every config of a topic, or those wanted, as DescribeConfigs shows them."""
    rows = []
    for row in HUB_SETTINGS:
        value, default = _shown(row, hub.settings), _shown(row, _DEFAULTS)
        source = DEFAULT_CONFIG if value == default else DYNAMIC_TOPIC_CONFIG
        rows.append(_entry(row.kafka, value, default, source, _type(row), row.help))
    rows += [
        _entry(name, value, value, DEFAULT_CONFIG, _STRING, "cannot be changed", read_only=True)
        for name, value in FIXED.items()
    ]
    return _trimmed(rows, wanted, synonyms, documentation)


def describe_broker(
    values: Mapping[str, str], wanted: set[str] | None, *, synonyms: bool, documentation: bool
) -> list[Struct]:
    """What the broker was started with, read-only."""
    rows = [
        _entry(name, value, value, STATIC_BROKER_CONFIG, _STRING, "set when the hub starts", read_only=True)
        for name, value in values.items()
    ]
    return _trimmed(rows, wanted, synonyms, documentation)


def _entry(
    name: str, value: str, default: str, source: int, kind: int, documentation: str, *, read_only: bool = False
) -> Struct:
    synonyms = [{"Name": name, "Value": default, "Source": DEFAULT_CONFIG}]
    if source != DEFAULT_CONFIG:
        synonyms.insert(0, {"Name": name, "Value": value, "Source": source})
    return {
        "Name": name,
        "Value": value,
        "ReadOnly": read_only,
        "ConfigSource": source,
        "Synonyms": synonyms,
        "ConfigType": kind,
        "Documentation": documentation,
    }


def _trimmed(rows: list[Struct], wanted: set[str] | None, synonyms: bool, documentation: bool) -> list[Struct]:
    for row in rows:
        if not synonyms:
            row["Synonyms"] = []
        if not documentation:
            row["Documentation"] = None
    return [row for row in rows if wanted is None or row["Name"] in wanted]
