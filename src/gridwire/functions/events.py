"""Events as user code sees them: instances of the package's own classes that read their batch when they are asked.

The package's own way, a converter per event, tries six time formats for every event and reaches some 16,000 events a
second a core. A view holds the batch and a row number and makes nothing until a property is read.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import repeat
from typing import Any

import azure.functions as func

from gridwire.functions.frames import Events
from gridwire.functions.model import KAFKA, Function


class Rows:
    """A batch, with what all its views share."""

    def __init__(self, events: Events, function: Function) -> None:
        self.events = events
        self.function = function
        data = bytes(events.data)  # slices of it are bytes at once
        self.bodies = [
            data[start : start + size] if size > 0 else b""
            for start, size in zip(events.value_starts, events.value_lengths, strict=True)
        ]

    def views(self) -> list[Any]:
        """An object for every event."""
        kind: Any = KafkaView if self.function.trigger == KAFKA else HubView
        return list(map(kind, repeat(self), range(self.events.count)))

    def time(self, row: int) -> datetime:
        """When an event was appended, or what its producer said."""
        return datetime.fromtimestamp(self.events.timestamps[row] / 1000, UTC)

    def key(self, row: int) -> str | None:
        """Key as text."""
        key = self.events.key(row)
        return None if key is None else key.decode("utf-8", "replace")

    def iothub(self, row: int) -> dict[str, str]:
        """Headers that IoT Hub adds."""
        headers = self.events.headers(row)
        return {name: _text(value) for name, value in headers if name.startswith("iothub-")}

    def properties(self, row: int) -> dict[str, Any]:
        """Application properties: the headers."""
        return {name: _text(value) for name, value in self.events.headers(row)}

    def system(self, row: int) -> dict[str, Any]:
        """System properties as Event Hubs' trigger tells them."""
        offset = self.events.offsets[row]
        system = {"EnqueuedTimeUtc": self.time(row).isoformat(), "SequenceNumber": offset, "Offset": offset}
        return system | {"PartitionKey": self.key(row)} | self.iothub(row)

    @cached_property
    def context(self) -> dict[str, Any]:
        """Where the events come from."""
        call = self.events.call
        return {
            "PartitionId": str(call.partition),
            "ConsumerGroup": self.function.consumer_group,
            "EventHubName": call.hub,
            "FullyQualifiedNamespace": "gridwire",
        }

    @cached_property
    def many(self) -> dict[str, Any]:
        """Metadata of a whole batch; the events of a list share it."""
        rows = range(self.events.count)
        system = [self.system(row) for row in rows]
        return {
            "PartitionContext": self.context,
            "SystemPropertiesArray": system,
            "PropertiesArray": [self.properties(row) for row in rows],
            "PartitionKeyArray": [one["PartitionKey"] for one in system],
            "OffsetArray": [one["Offset"] for one in system],
            "SequenceNumberArray": [one["SequenceNumber"] for one in system],
            "EnqueuedTimeUtcArray": [one["EnqueuedTimeUtc"] for one in system],
        }

    @cached_property
    def kafka_many(self) -> dict[str, Any]:
        """Metadata of a batch of a Kafka trigger."""
        wholes = [KafkaView(self, row)._whole(_text(body)) for row, body in enumerate(self.bodies)]
        names = ("Offset", "Partition", "Topic", "Timestamp", "Key", "Headers")
        return {f"{name}Array": [whole[name] for whole in wholes] for name in names}

    def one(self, row: int) -> dict[str, Any]:
        """Metadata of a single event."""
        system = self.system(row)
        return {
            "PartitionContext": self.context,
            "SystemProperties": system,
            "Properties": self.properties(row),
            "PartitionKey": system["PartitionKey"],
            "Offset": system["Offset"],
            "SequenceNumber": system["SequenceNumber"],
            "EnqueuedTimeUtc": system["EnqueuedTimeUtc"],
        }


class _View:
    """A row of a batch; what is asked for is made then."""

    def __init__(self, rows: Rows, row: int) -> None:
        self._rows = rows
        self._row = row

    def get_body(self) -> bytes:
        """The value."""
        return self._rows.bodies[self._row]


class HubView(_View, func.EventHubEvent):
    """`func.EventHubEvent` over a row of a batch."""

    @property
    def partition_key(self) -> str | None:
        """The key as text."""
        return self._rows.key(self._row)

    @property
    def iothub_metadata(self) -> Mapping[str, str]:
        """Headers that IoT Hub adds."""
        return self._rows.iothub(self._row)

    @property
    def sequence_number(self) -> int:
        """The offset."""
        return int(self._rows.events.offsets[self._row])

    @property
    def enqueued_time(self) -> datetime:
        """When it was appended, or what its producer said."""
        return self._rows.time(self._row)

    @property
    def offset(self) -> Any:
        """The offset: an int in a list, text alone, as the package's converters have it."""
        offset = int(self._rows.events.offsets[self._row])
        return offset if self._rows.function.many else str(offset)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Of the whole batch in a list, of the event alone."""
        return self._rows.many if self._rows.function.many else self._rows.one(self._row)


class KafkaView(_View, func.KafkaEvent):
    """`func.KafkaEvent` over a row of a batch."""

    @property
    def key(self) -> str | None:
        """The key as text."""
        return self._rows.key(self._row)

    @property
    def offset(self) -> int:
        """The offset."""
        return int(self._rows.events.offsets[self._row])

    @property
    def partition(self) -> int:
        """The partition."""
        return self._rows.events.call.partition

    @property
    def topic(self) -> str:
        """The hub."""
        return self._rows.events.call.hub

    @property
    def timestamp(self) -> str:
        """When it was appended, or what its producer said."""
        return self._rows.time(self._row).isoformat().replace("+00:00", "Z")

    @property
    def headers(self) -> list[Any]:
        """Name and value of every header."""
        found = self._rows.events.headers(self._row)
        return [{"Key": name, "Value": _text(value)} for name, value in found]

    def get_body(self) -> bytes:
        """The whole event as JSON; the value alone where the trigger asks for binary data, a record of an Avro one."""
        value, function = self._rows.bodies[self._row], self._rows.function
        if function.avro:
            from gridwire.functions.avro import to_json

            return to_json(function.avro, value)
        if function.registry:
            from gridwire.functions.registry import registry_at

            return registry_at(*map(named, function.registry)).to_json(value)
        return json.dumps(self._whole(_text(value))).encode() if function.envelope else value

    def _whole(self, value: str) -> dict[str, Any]:
        """The event as Azure's Kafka extension writes it; values of headers are base64 there."""
        headers = [
            {"Key": name, "Value": b64encode(text or b"").decode()}
            for name, text in self._rows.events.headers(self._row)
        ]
        return {
            "Offset": self.offset, "Partition": self.partition, "Topic": self.topic, "Timestamp": self.timestamp,
            "Value": value, "Key": self.key, "Headers": headers,
        }  # fmt: skip

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The event's parts, headers as JSON; of the whole batch in a list, under names that end in Array."""
        if self._rows.function.many:
            return self._rows.kafka_many
        whole = self._whole(_text(self._rows.bodies[self._row]))
        return {**whole, "Headers": json.dumps(whole["Headers"])}


def named(text: str) -> str:
    """What a setting says, given by its name or in percent signs; else the text. Settings are in the environment."""
    return os.environ.get(text.strip("%"), text) if text else ""


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
