"""Topics of a Kafka cluster as hubs: list, create, change, delete, and what their settings are.

Settings are topic configs; what Kafka has no config for (capture, the time of creation) is a note in the control
topic. A hub that gridwire makes gets the configs somebody asked for and the batch size that our heads need; the rest is
the cluster's own default, for that is its operator's will.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from gridwire.broker import kafka_wire as wire
from gridwire.broker.control import Changes, pack
from gridwire.broker.kafka_address import CLUSTER_DEFAULT, CONTROL_TOPIC
from gridwire.broker.kafka_client import PAUSE_LEAST_S, PAUSE_MOST_S, KafkaClient, Topic
from gridwire.broker.kafka_control import HUB, HubNote, KafkaControl
from gridwire.broker.kafka_errors import failure
from gridwire.broker.port import HubInfo
from gridwire.core.clock import Clock
from gridwire.core.errors import HubExists, InvalidName, InvalidSetting, Unavailable, UnknownHub
from gridwire.core.limits import PARTITIONS_PER_HUB_MAX, check_name
from gridwire.core.settings import (
    HUB_SETTINGS,
    NOT_KAFKAS,
    HubSettings,
    from_topic_config,
    topic_configs,
    with_changes,
)

CONFIGS_S: Final = 60.0
"""How old a hub's settings may get where somebody changes them with Kafka's own tools."""

VISIBLE_S: Final = 30.0
"""How long the brokers may take to see a change that their controller has."""

LOOKS_S: Final = (0.0, 0.3, 2.0)
"""When a gateway looks after another one said that it changed something: a broker may see that a moment later."""

TOPIC: Final = 2
"""Kafka's resource type."""

SET: Final = 0
MIN_INSYNC: Final = "min.insync.replicas"
ALREADY_EXISTS: Final = 36
UNKNOWN_TOPIC: Final = 3
NO_CHANGE: Final = 37

_ROWS: Final = {row.kafka: row for row in HUB_SETTINGS if not row.kafka.startswith(NOT_KAFKAS)}
_OWN: Final = tuple(row.name for row in HUB_SETTINGS if row.kafka.startswith(NOT_KAFKAS))

log = structlog.get_logger("gridwire.kafka")


@dataclass(frozen=True, slots=True)
class _Configs:
    """A topic's configs as they were at a time of the loop's clock."""

    settings: HubSettings
    min_insync: int
    at_s: float


class KafkaHubs:
    """The picture of the cluster in our terms, kept up to date by `refreshed` and `noted`."""

    def __init__(
        self,
        client: KafkaClient,
        control: KafkaControl,
        clock: Clock,
        default_partitions: int,
        templates: Mapping[str, Mapping[str, Any]],
        single_partition: frozenset[str],
    ) -> None:
        self._client = client
        self._address = client.address
        self._control = control
        self._clock = clock
        self._default_partitions = default_partitions
        self._templates = templates
        self._single_partition = single_partition
        self._infos: dict[str, HubInfo] = {}
        self._configs: dict[str, _Configs] = {}
        self._admin = asyncio.Lock()
        self._describing = asyncio.Lock()
        self.on_changed: Callable[[], None] = lambda: None

    # -- what there is --------------------------------------------------------------------------------------------

    def list(self) -> Sequence[HubInfo]:
        """All hubs by name."""
        return [self._infos[name] for name in sorted(self._infos)]

    def get(self, name: str) -> HubInfo:
        """Raises UnknownHub."""
        info = self._infos.get(name)
        if info is None:
            raise UnknownHub(f"no hub {name!r}: create it with `gridwire hub create {name[:80]}`")
        return info

    def safety(self, name: str) -> tuple[int, int]:
        """(replicas, min.insync) of a hub; the least of its partitions."""
        topic = self._client.topics.get(self._address.topic(name))
        known = self._configs.get(self._address.topic(name))
        if topic is None or known is None:
            return 1, 1
        return min((each.replicas for each in topic.partitions), default=1), known.min_insync

    async def refreshed(self) -> None:
        """The client looked at the cluster."""
        now_s = asyncio.get_running_loop().time()
        async with self._describing:
            topics = self._ours()
            stale = [
                name
                for name, topic in topics.items()
                if (known := self._configs.get(name)) is None
                or now_s - known.at_s > CONFIGS_S
                or self._id_of(name) != topic.id
            ]
            await self._describe(stale)
            self._rebuild(topics)

    async def noted(self, changes: Changes) -> None:
        """Some gateway made, changed or deleted a hub: look at it."""
        if not any(key.startswith(HUB) for key in changes):
            return
        touched = {key[len(HUB) :] for key in changes if key.startswith(HUB)}
        for name, topic in self._client.topics.items():
            if str(topic.id) in touched:
                self._configs.pop(name, None)
        for after_s in LOOKS_S:
            asyncio.get_running_loop().call_later(after_s, self._client.doubt)

    def _ours(self) -> dict[str, Topic]:
        control = self._address.topic(CONTROL_TOPIC)
        return {
            name: topic
            for name, topic in self._client.topics.items()
            if not topic.internal and name != control and self._address.hub(name) is not None
        }

    def _id_of(self, name: str) -> Any:
        info = self._infos.get(self._address.hub(name) or "")
        return None if info is None else info.id

    async def _describe(self, names: Sequence[str]) -> None:
        if not names:
            return
        keys = [*_ROWS, MIN_INSYNC]
        resources = [{"ResourceType": TOPIC, "ResourceName": name, "ConfigurationKeys": keys} for name in names]
        told = await self._client.ask_anybody(wire.DESCRIBE_CONFIGS, {"Resources": resources})
        at_s = asyncio.get_running_loop().time()
        for row in told["Results"]:
            if row["ErrorCode"] == 0:
                values = {each["Name"]: each["Value"] for each in row["Configs"]}
                self._configs[row["ResourceName"]] = _Configs(_settings(values), int(values.get(MIN_INSYNC, 1)), at_s)

    def _rebuild(self, topics: Mapping[str, Topic]) -> None:
        infos = {}
        for topic_name, topic in topics.items():
            known = self._configs.get(topic_name)
            name = self._address.hub(topic_name)
            if known is not None and name is not None:
                infos[name] = self._info(name, topic, known)
        for gone in self._configs.keys() - topics.keys():
            del self._configs[gone]
        if infos != self._infos:
            self._infos = infos
            self.on_changed()

    def _info(self, name: str, topic: Topic, known: _Configs) -> HubInfo:
        note = self._note(topic.id)
        settings = msgspec.structs.replace(
            known.settings, **{name: note.settings[name] for name in _OWN if name in note.settings}
        )
        internal = name.startswith("__")
        return HubInfo(name, topic.id, len(topic.partitions), settings, internal, note.created_ms)

    def _note(self, topic_id: UUID) -> HubNote:
        raw = self._control.get(f"{HUB}{topic_id}")
        return HubNote() if raw is None else msgspec.msgpack.decode(raw, type=HubNote)

    async def _until(self, visible: Callable[[], bool], what: str) -> None:
        """Look at the cluster until it shows what was done. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + VISIBLE_S
        pause_s = PAUSE_LEAST_S
        while True:
            await self._client.refresh()
            if visible():
                return
            if loop.time() > deadline_s:
                raise Unavailable(f"the brokers do not show {what} yet; it is done nevertheless")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    # -- changes --------------------------------------------------------------------------------------------------

    async def create(self, name: str, partitions: int | None, settings: Mapping[str, Any] | None) -> HubInfo:
        """See `Broker.create_hub`."""
        check_name(name)
        if name == CONTROL_TOPIC:
            raise InvalidName(f"{name!r} is where gridwire keeps its own state")
        usual = 1 if name in self._single_partition else self._default_partitions
        count = _partition_count(usual if partitions is None else partitions)
        asked = {**self._templates.get(name, {}), **(settings or {})}
        wanted = with_changes(HubSettings(), asked)
        configs = topic_configs(wanted, {*asked, "message_bytes_max"})
        async with self._admin:
            if name in self._infos:
                raise HubExists(f"hub {name!r} exists already")
            topic = self._address.topic(name)
            row = await self.make_topic(topic, count, configs)
            note = _note_of(wanted, self._clock.now_ms())
            await self._control.change({f"{HUB}{row['TopicId']}": pack(note)})
            await self._until(lambda: name in self._infos and self._led(topic), f"hub {name!r}")
        log.info("hub created", hub=name, partitions=count)
        return self.get(name)

    def _led(self, topic: str) -> bool:
        """Whether every partition has a leader."""
        known = self._client.topics.get(topic)
        return known is not None and all(partition.leader >= 0 for partition in known.partitions)

    async def make_topic(self, topic: str, partitions: int, configs: Mapping[str, str]) -> Mapping[str, Any]:
        """Create a topic with the address's safety. Raises HubExists, InvalidSetting, NotAllowed, Unavailable."""
        address = self._address
        more = {} if address.min_insync == CLUSTER_DEFAULT else {MIN_INSYNC: str(address.min_insync)}
        rows = [{"Name": key, "Value": value} for key, value in {**configs, **more}.items()]
        body = {
            "Topics": [{"Name": topic, "NumPartitions": partitions, "ReplicationFactor": address.replication,
                        "Assignments": [], "Configs": rows}],
            "TimeoutMs": int(VISIBLE_S * 1000), "ValidateOnly": False,
        }  # fmt: skip

        async def attempt() -> Mapping[str, Any]:
            row: Mapping[str, Any] = (await self._client.ask_anybody(wire.CREATE_TOPICS, body))["Topics"][0]
            if row["ErrorCode"] == ALREADY_EXISTS:
                await self._client.refresh()  # somebody else made it: whoever asks next shall find it
                raise HubExists(f"hub {address.hub(topic)!r} exists already")
            if row["ErrorCode"]:
                raise failure(row["ErrorCode"], f"topic {topic!r}", row["ErrorMessage"])
            return row

        return await self._client.trying(attempt)

    async def alter(self, name: str, settings: Mapping[str, Any]) -> HubInfo:
        """See `Broker.alter_hub`."""
        async with self._admin:
            info = self.get(name)
            wanted = with_changes(info.settings, settings)
            topic = self._address.topic(name)
            if configs := topic_configs(wanted, settings):
                await self._set_configs(topic, configs)
            await self._write_note(info.id, {each: getattr(wanted, each) for each in settings if each in _OWN})

            def visible() -> bool:
                self_info = self._infos.get(name)
                shown = self_info is not None and all(
                    getattr(self_info.settings, each) == getattr(wanted, each) for each in settings
                )
                if not shown:
                    self._configs.pop(topic, None)
                return shown

            await self._until(visible, f"the new settings of hub {name!r}")
        return self.get(name)

    async def _write_note(self, topic_id: UUID, settings: Mapping[str, Any]) -> None:
        """Keep settings of ours besides those that are kept; tells the other gateways to look."""

        def decide() -> Changes:
            note = self._note(topic_id)
            return {f"{HUB}{topic_id}": pack(msgspec.structs.replace(note, settings={**note.settings, **settings}))}

        await self._control.update(decide)

    async def _set_configs(self, topic: str, configs: Mapping[str, str]) -> None:
        rows = [{"Name": key, "ConfigOperation": SET, "Value": value} for key, value in configs.items()]
        body = {
            "Resources": [{"ResourceType": TOPIC, "ResourceName": topic, "Configs": rows}],
            "ValidateOnly": False,
        }

        async def attempt() -> None:
            row = (await self._client.ask_anybody(wire.INCREMENTAL_ALTER_CONFIGS, body))["Responses"][0]
            if row["ErrorCode"]:
                raise failure(row["ErrorCode"], f"settings of topic {topic!r}", row["ErrorMessage"])

        await self._client.trying(attempt)

    async def add_partitions(self, name: str, total: int) -> HubInfo:
        """See `Broker.add_partitions`."""
        async with self._admin:
            info = self.get(name)
            if _partition_count(total) <= info.partitions:
                raise InvalidSetting(f"hub {name!r} has {info.partitions} partitions; they can only become more")
            topic = self._address.topic(name)
            body = {"Topics": [{"Name": topic, "Count": total, "Assignments": None}],
                    "TimeoutMs": int(VISIBLE_S * 1000), "ValidateOnly": False}  # fmt: skip

            async def attempt() -> None:
                row = (await self._client.ask_anybody(wire.CREATE_PARTITIONS, body))["Results"][0]
                if row["ErrorCode"]:
                    raise failure(row["ErrorCode"], f"partitions of topic {topic!r}", row["ErrorMessage"])

            await self._client.trying(attempt)
            await self._write_note(info.id, {})  # tells the other gateways
            await self._until(
                lambda: name in self._infos and self._infos[name].partitions == total and self._led(topic),
                f"the new partitions of hub {name!r}",
            )
        return self.get(name)

    async def delete(self, name: str) -> None:
        """See `Broker.delete_hub`."""
        async with self._admin:
            info = self.get(name)
            topic = self._address.topic(name)
            body = {"TopicNames": [topic], "TimeoutMs": int(VISIBLE_S * 1000)}
            tried = False

            async def attempt() -> None:
                nonlocal tried
                row = (await self._client.ask_anybody(wire.DELETE_TOPICS, body))["Responses"][0]
                if row["ErrorCode"] == UNKNOWN_TOPIC and tried:  # our own first try did it
                    return
                tried = True
                if row["ErrorCode"]:
                    raise failure(row["ErrorCode"], f"topic {topic!r}", row.get("ErrorMessage"))

            await self._client.trying(attempt)
            await self._control.change({f"{HUB}{info.id}": None})
            await self._until(lambda: name not in self._infos, f"that hub {name!r} is gone")
        log.info("hub deleted", hub=name)


def _settings(values: Mapping[str, str | None]) -> HubSettings:
    """Settings as the cluster has them, within our bounds or not."""
    found: dict[str, Any] = {}
    for key, row in _ROWS.items():
        value = values.get(key)
        if value is not None:
            ours = from_topic_config(row, value)
            found[row.name] = ours if row.choices else int(ours)
    return HubSettings(**found)


def _partition_count(count: int) -> int:
    if not 1 <= count <= PARTITIONS_PER_HUB_MAX:
        raise InvalidSetting(f"a hub has 1 to {PARTITIONS_PER_HUB_MAX} partitions, not {count}")
    return count


def _note_of(settings: HubSettings, created_ms: int) -> HubNote:
    return HubNote({name: getattr(settings, name) for name in _OWN}, created_ms)
