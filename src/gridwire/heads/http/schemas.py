"""The schema registry over HTTP: at Azure's addresses for its SDKs, and at ours for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gridwire.broker.schemas import Schema, SchemaRegistry
from gridwire.core.errors import InvalidSchema
from gridwire.heads.http.request import header, parse_json, whole_number
from gridwire.heads.http.routes import Answer, Call, json_answer
from gridwire.schemas.model import parse_compatibility, parse_format
from gridwire.wire.http import schemas as wire
from gridwire.wire.http.problems import HttpError

ReadBody = Callable[[Call], Awaitable[bytes]]


class CreateGroup(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/schemagroups."""

    name: str
    format: str = "Avro"
    compatibility: str = "None"


class RegisterSchema(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/schemagroups/{group}/schemas."""

    name: str
    definition: str
    format: str


class Schemas:
    """Answers of the registry. `body` reads a request within its limits."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry

    # -- Azure's addresses --------------------------------------------------------------------------------------

    async def groups(self, call: Call) -> Answer:
        """GET /$schemaGroups."""
        return json_answer({"Value": [group.name for group in self._registry.groups()]})

    async def versions(self, call: Call) -> Answer:
        """GET /$schemaGroups/{group}/schemas/{schema}/versions."""
        group, name = call.names
        return json_answer({"Value": [each.version for each in self._registry.versions(group, name)]})

    async def by_id(self, call: Call) -> Answer:
        """GET /$schemaGroups/$schemas/{id}."""
        return _described(self._registry.by_id(call.names[0]), 200)

    async def by_version(self, call: Call) -> Answer:
        """GET /$schemaGroups/{group}/schemas/{schema}/versions/{version}."""
        group, name, version = call.names
        return _described(self._registry.by_version(group, name, whole_number(version, "the version")), 200)

    async def register(self, call: Call, body: bytes) -> Answer:
        """PUT /$schemaGroups/{group}/schemas/{schema}."""
        group, name = call.names
        kind = wire.format_of(header(call.scope, b"content-type").decode("latin-1"))
        return _described(await self._registry.register(group, name, kind, _text(body)), 204)

    async def find(self, call: Call, body: bytes) -> Answer:
        """POST /$schemaGroups/{group}/schemas/{schema}:get-id."""
        group, name = call.names
        if not name.endswith(wire.GET_ID):
            raise HttpError(405, "a schema is registered with PUT", (("allow", "PUT"),))
        kind = wire.format_of(header(call.scope, b"content-type").decode("latin-1"))
        found = await self._registry.find(group, name.removesuffix(wire.GET_ID), kind, _text(body))
        return _described(found, 204)

    # -- our addresses ------------------------------------------------------------------------------------------

    async def list_groups(self, call: Call) -> Answer:
        """GET /v1/schemagroups."""
        return json_answer({"groups": self._registry.groups()})

    async def create_group(self, call: Call, body: bytes) -> Answer:
        """POST /v1/schemagroups."""
        wanted = parse_json(body, CreateGroup)
        kind, rule = parse_format(wanted.format), parse_compatibility(wanted.compatibility)
        return json_answer(await self._registry.create_group(wanted.name, kind, rule), 201)

    async def delete_group(self, call: Call) -> Answer:
        """DELETE /v1/schemagroups/{group}."""
        await self._registry.delete_group(call.name)
        return Answer(204, b"", [])

    async def list_schemas(self, call: Call) -> Answer:
        """GET /v1/schemagroups/{group}/schemas."""
        return json_answer({"schemas": self._registry.schemas(call.name)})

    async def add(self, call: Call, body: bytes) -> Answer:
        """POST /v1/schemagroups/{group}/schemas."""
        wanted = parse_json(body, RegisterSchema)
        kind = parse_format(wanted.format)
        return json_answer(await self._registry.register(call.name, wanted.name, kind, wanted.definition), 201)

    async def show(self, call: Call) -> Answer:
        """GET /v1/schemagroups/{group}/schemas/{schema}."""
        return json_answer({"versions": self._registry.versions(*call.names)})

    async def delete(self, call: Call) -> Answer:
        """DELETE /v1/schemagroups/{group}/schemas/{schema}."""
        await self._registry.delete(*call.names)
        return Answer(204, b"", [])


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidSchema(f"the definition is not UTF-8: byte {error.start}") from None


def _described(schema: Schema, status: int) -> Answer:
    """A version as Azure answers: what it is stands in headers, its text (with 200) in the body."""
    path = f"/$schemaGroups/{schema.group}/schemas/{schema.name}/versions/{schema.version}"
    described: dict[str, Any] = {
        "schema-id": schema.id,
        "schema-id-location": f"/$schemaGroups/$schemas/{schema.id}",
        "schema-group-name": schema.group,
        "schema-name": schema.name,
        "schema-version": schema.version,
        "schema-versions-location": path.rpartition("/")[0],
        "location": path,
        "content-type": wire.CONTENT_TYPES[schema.format],
        "cache-control": "no-store",
    }
    headers = [(name.encode(), str(value).encode()) for name, value in described.items()]
    return Answer(status, schema.definition.encode() if status == 200 else b"", headers)
