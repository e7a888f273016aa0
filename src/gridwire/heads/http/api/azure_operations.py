"""Addresses as Event Hubs and its schema registry have them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from gridwire.heads.http.api import shapes
from gridwire.heads.http.api.model import Answer, Body, Operation, Parameter, Raw, answers
from gridwire.wire.http import eventhubs, schemas

EVENT_HUBS, REGISTRY = "Event Hubs", "Azure's schema registry"

_BROKER_PROPERTIES: Final = Parameter(
    "BrokerProperties", 'JSON object; of its members `PartitionKey` is the key, as in `{"PartitionKey":"m-0042"}`',
    place="header",
)  # fmt: skip
_SENT: Final = Body({eventhubs.BATCH: list[eventhubs.Message], "application/octet-stream": Raw}, required=False)
_DEFINITION: Final = Body(dict.fromkeys(schemas.CONTENT_TYPES.values(), Raw))
_DESCRIBED: Final = {
    "schema-id": "id of the version", "schema-version": "its number", "schema-name": "name of the schema",
    "schema-group-name": "name of the group", "schema-id-location": "address by id",
    "schema-versions-location": "address of all versions", "location": "address of the version",
}  # fmt: skip
_TEXT: Final = Answer("The definition.", dict.fromkeys(schemas.CONTENT_TYPES.values(), Raw), _DESCRIBED)
_FOUND: Final = {204: Answer("What it is stands in headers.", {}, _DESCRIBED)}
_ONE: Final = "/$schemagroups/{group}/schemas/{schema}"


def _send(name: str, summary: str) -> Operation:
    return Operation(
        name, EVENT_HUBS, summary, {201: Answer("The events are as durable as the hub promises.")},
        (_BROKER_PROPERTIES,), _SENT,
        about="Anything but a batch of messages is one event; headers that are not HTTP's own are its properties.",
    )  # fmt: skip


AZURE: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", "/{hub}/messages"): _send("sendMessages", "Send events as Event Hubs' REST API does"),
    ("POST", "/{hub}/partitions/{partition}/messages"): _send("sendToPartition", "Send events to one partition"),
    ("POST", "/{hub}/publishers/{publisher}/messages"): _send("sendAsPublisher", "Send events as a publisher"),
    ("GET", "/$schemagroups"): Operation(
        "getSchemaGroups", REGISTRY, "List schema groups", answers("Names.", shapes.SchemaGroupNames),
    ),
    ("GET", "/$schemagroups/$schemas/{id}"): Operation(
        "getSchemaById", REGISTRY, "Read a version by its id", {200: _TEXT},
    ),
    ("PUT", _ONE): Operation(
        "registerSchema", REGISTRY, "Register a version of a schema", _FOUND, body=_DEFINITION,
    ),
    ("POST", _ONE): Operation(
        "findSchema", REGISTRY, "Find a version by its definition", _FOUND,
        (Parameter("schema", "name of the schema, followed by `:get-id`",
                   Annotated[str, Meta(pattern=f"^[^:/]+{schemas.GET_ID}$")], "path", required=True),),
        _DEFINITION, refusals=(405,),
    ),
    ("GET", _ONE + "/versions"): Operation(
        "getSchemaVersions", REGISTRY, "List the numbers of a schema's versions",
        answers("Numbers.", shapes.SchemaVersionNumbers),
    ),
    ("GET", _ONE + "/versions/{version}"): Operation(
        "getSchemaVersion", REGISTRY, "Read a version by its number", {200: _TEXT},
    ),
}  # fmt: skip
