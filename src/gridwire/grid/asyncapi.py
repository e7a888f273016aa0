"""The AsyncAPI document of the platform's own hubs: which there are, what their events hold, how they are reached.

Source: AsyncAPI Specification 3.0.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gridwire.core.hubs import SINGLE_PARTITION, TEMPLATES
from gridwire.core.settings import HubSettings
from gridwire.grid.hub_events import BYTES, HUB_EVENTS, HubEvents, Message, Party, Raw

Plain = dict[str, Any]

VERSION: Final = "v1"
ABOUT: Final = (
    "Hubs that a gridwire hub itself defines. Every hub is reached by every protocol: its channel address is the topic "
    "in Kafka, the node in AMQP 1.0 (`ADDRESS/ConsumerGroups/GROUP/Partitions/N` reads a partition), and a part of the "
    "path in HTTP: `POST /v1/hubs/ADDRESS/events` sends, `GET /v1/hubs/ADDRESS/events` reads a page, and "
    "`GET /v1/hubs/ADDRESS/tail` follows as server-sent events. Headers and keys are those of the event, whichever way "
    "it came (docs/reference/event-mapping.md)."
)  # fmt: skip

_SIGN_IN: Final = [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("password", "token")]
SERVERS: Final[Plain] = {
    "kafka": {
        "host": "127.0.0.1:9092", "protocol": "kafka", "description": "Kafka clients.",
        "security": [*_SIGN_IN, *({"$ref": f"#/components/securitySchemes/scram{bits}"} for bits in (256, 512))],
    },
    "amqp": {
        "host": "127.0.0.1:5672", "protocol": "amqp1", "description": "AMQP 1.0, as Event Hubs' SDKs speak it.",
        "security": _SIGN_IN,
    },
    "http": {
        "host": "127.0.0.1:8700", "pathname": "/v1/hubs", "protocol": "http", "security": _SIGN_IN,
        "description": "The HTTP API; see openapi.json. Events are followed at /tail below a channel's address.",
    },
}  # fmt: skip
SECURITY_SCHEMES: Final[Plain] = {
    "password": {"type": "userPassword", "description": "Name and key of a policy: SASL PLAIN, HTTP Basic."},
    "token": {"type": "httpApiKey", "in": "header", "name": "Authorization",
              "description": "JWT or shared access signature; in Kafka OAUTHBEARER."},
    "scram256": {"type": "scramSha256"},
    "scram512": {"type": "scramSha512"},
}  # fmt: skip


def document() -> Plain:
    """The document as plain values."""
    messages = [(message, hub) for hub in HUB_EVENTS.values() for message in hub.messages]
    types = [message.shape for message, _ in messages if message.shape is not Raw]
    found, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    payloads = dict(zip(types, found, strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "gridwire", "version": VERSION, "description": ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": SERVERS,
        "channels": {name: _channel(name, hub) for name, hub in HUB_EVENTS.items()},
        "operations": dict(_operations()),
        "components": {
            "messages": {message.name: _message(message, hub, payloads) for message, hub in messages},
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }  # fmt: skip


def _channel(name: str, hub: HubEvents) -> Plain:
    settings = {**msgspec.structs.asdict(HubSettings()), **TEMPLATES[name]}
    found: Plain = {
        "address": name,
        "description": f"{hub.about} Keyed by {hub.key}.",
        "messages": {each.name: {"$ref": f"#/components/messages/{each.name}"} for each in hub.messages},
        "bindings": {"kafka": {"topic": name, "topicConfiguration": {
            "cleanup.policy": settings["cleanup"].split(","), "retention.ms": settings["retention_ms"],
        }}},
    }  # fmt: skip
    if name in SINGLE_PARTITION:
        found["bindings"]["kafka"]["partitions"] = 1
    return found


def _operations() -> Iterator[tuple[str, Plain]]:
    """What the platform does with each hub; whoever uses it does the opposite, and may read all of them."""
    for name, hub in HUB_EVENTS.items():
        place = {"channel": {"$ref": f"#/channels/{name}"}}
        if hub.sent_by is not Party.PLATFORM:
            yield f"take.{name}", {"action": "receive", **place, "summary": f"The platform reads {name}."}
        if hub.sent_by is not Party.UTILITY:
            yield f"tell.{name}", {"action": "send", **place, "summary": f"The platform tells {name}."}


def _message(message: Message, hub: HubEvents, payloads: dict[type, Plain]) -> Plain:
    found: Plain = {"title": message.name, "summary": message.about}
    if message.headers:
        texts = {name: {"type": "string", "description": text} for name, text in message.headers.items()}
        found["headers"] = {"type": "object", "properties": texts}
    if hub.key != "nothing":
        found["bindings"] = {"kafka": {"key": {"type": "string", "description": hub.key}}}
    if message.shape is Raw:
        return {**found, "contentType": BYTES}
    return {**found, "payload": payloads[message.shape]}
