"""The schema registry: groups and the versions of their schemas, in the control journal.

    schemagroup/<group>                     GroupRecord
    schema/<group>/<name>/<version>         SchemaRecord

A definition is kept as it was first registered. Registering it again, with other white space or another order of
members, gives the version it has. An id follows from group, name and definition, so a registry that was lost and is
filled again gives the ids that stand in the events. What all versions mean is checked when one is added: a hub is read
from its start again, and then every version is met.
"""

from __future__ import annotations

import asyncio
import hashlib
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from gridwire.broker.control import Changes, pack
from gridwire.broker.port import Journal
from gridwire.core.clock import Clock
from gridwire.core.errors import InvalidSetting, MessageTooLarge, SchemaGroupExists, UnknownSchema, Unsupported
from gridwire.core.limits import MIB, check_name
from gridwire.schemas import model
from gridwire.schemas.model import Compatibility, Format

REGISTRY_BYTES_MAX: Final = 64 * MIB
"""All definitions together: they are kept in memory and written anew when the journal is compacted."""

VERSIONS_MAX: Final = 1000
"""Versions of one schema; each new one is checked against all."""

_GROUP: Final = "schemagroup/"
_SCHEMA: Final = "schema/"
_quote = partial(urllib.parse.quote, safe="")


class GroupRecord(msgspec.Struct, frozen=True, array_like=True):
    """A schema group as the journal keeps it."""

    format: Format
    compatibility: Compatibility
    created_ms: int = 0


class SchemaRecord(msgspec.Struct, frozen=True, array_like=True):
    """One version as the journal keeps it."""

    id: str
    definition: str
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class SchemaGroup:
    """A group: its schemas have one format, and keep one promise."""

    name: str
    format: Format
    compatibility: Compatibility
    created_ms: int
    schemas: int


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of a schema."""

    group: str
    name: str
    version: int
    id: str
    format: Format
    definition: str
    created_ms: int


@dataclass(slots=True)
class _Group:
    record: GroupRecord
    schemas: dict[str, list[SchemaRecord]] = field(default_factory=dict)


class SchemaRegistry:
    """See the module."""

    def __init__(self, broker: Journal, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._groups: dict[str, _Group] = {}
        self._ids: dict[str, tuple[str, str, int]] = {}
        self._bytes = 0
        self._load()
        broker.on_change(self._changed)

    def _changed(self, changes: Changes) -> None:
        if any(key.startswith((_GROUP, _SCHEMA)) for key in changes):
            self._load()

    def _load(self) -> None:
        """Everything anew: it is small, and changes rarely."""
        self._groups, self._ids, self._bytes = {}, {}, 0
        for key, value in self._broker.kept(_GROUP):
            record = msgspec.msgpack.decode(value, type=GroupRecord)
            self._groups[urllib.parse.unquote(key)] = _Group(record)
        for key, value in sorted(self._broker.kept(_SCHEMA)):
            group, name, _ = map(urllib.parse.unquote, key.split("/"))
            self._take(group, name, msgspec.msgpack.decode(value, type=SchemaRecord))

    def _take(self, group: str, name: str, record: SchemaRecord) -> None:
        versions = self._groups[group].schemas.setdefault(name, [])
        versions.append(record)
        self._ids[record.id] = group, name, len(versions)
        self._bytes += len(record.definition)

    # -- groups -------------------------------------------------------------------------------------------------

    def groups(self) -> list[SchemaGroup]:
        """All groups by name."""
        return [
            SchemaGroup(name, each.record.format, each.record.compatibility, each.record.created_ms, len(each.schemas))
            for name, each in sorted(self._groups.items())
        ]

    async def create_group(self, name: str, kind: Format, compatibility: Compatibility) -> SchemaGroup:
        """Durable when it returns. Raises InvalidName, InvalidSetting, SchemaGroupExists."""
        check_name(name, "schema group")
        if kind is Format.CUSTOM and compatibility is not Compatibility.NONE:
            raise InvalidSetting("schemas of format Custom cannot be compared: choose compatibility None")
        record = GroupRecord(kind, compatibility, self._clock.now_ms())

        def decide() -> Changes:
            if name in self._groups:
                raise SchemaGroupExists(f"schema group {name!r} exists already")
            return {_GROUP + _quote(name): pack(record)}

        await self._broker.update(decide)
        return SchemaGroup(name, kind, compatibility, record.created_ms, 0)

    async def delete_group(self, name: str) -> None:
        """Forget an empty group. Raises UnknownSchema, SchemaGroupExists."""

        def decide() -> Changes:
            if self._group(name).schemas:
                raise SchemaGroupExists(f"schema group {name!r} still has schemas: delete them first")
            return {_GROUP + _quote(name): None}

        await self._broker.update(decide)

    def _group(self, name: str) -> _Group:
        found = self._groups.get(name)
        if found is None:
            raise UnknownSchema(
                f"no schema group {name[:80]!r}: create it with `gridwire schema create-group {name[:80]}`"
            )
        return found

    # -- schemas ------------------------------------------------------------------------------------------------

    def schemas(self, group: str) -> list[Schema]:
        """The newest version of every schema of a group. Raises UnknownSchema."""
        found = self._group(group).schemas
        return [self._shown(group, name, len(versions)) for name, versions in sorted(found.items())]

    def versions(self, group: str, name: str) -> Sequence[Schema]:
        """Every version of a schema, oldest first. Raises UnknownSchema."""
        return [self._shown(group, name, at + 1) for at in range(len(self._versions(group, name)))]

    def by_id(self, schema_id: str) -> Schema:
        """Raises UnknownSchema."""
        found = self._ids.get(schema_id)
        if found is None:
            raise UnknownSchema(f"no schema has the id {schema_id[:80]!r}")
        return self._shown(*found)

    def by_version(self, group: str, name: str, version: int) -> Schema:
        """Raises UnknownSchema."""
        if not 1 <= version <= len(self._versions(group, name)):
            raise UnknownSchema(f"schema {name[:80]!r} of group {group!r} has no version {version}")
        return self._shown(group, name, version)

    async def find(self, group: str, name: str, kind: Format, definition: str) -> Schema:
        """The version that has this definition. Raises UnknownSchema, InvalidSchema, Unsupported."""
        self._check(group, kind, definition)
        self._versions(group, name)
        known = self._ids.get(await asyncio.to_thread(_id, group, name, kind, definition))
        if known is None:
            raise UnknownSchema(f"schema {name[:80]!r} of group {group!r} has no version with this definition")
        return self._shown(*known)

    async def register(self, group: str, name: str, kind: Format, definition: str) -> Schema:
        """Add a version, durable when it returns, or find the one that has this definition already.

        Raises:
            UnknownSchema: there is no such group. Unsupported: it has another format. InvalidSchema, InvalidName,
            MessageTooLarge. IncompatibleSchema: the version breaks what the group promises.
        """
        check_name(name, "schema")
        await self._broker.catch_up()
        self._check(group, kind, definition)
        schema_id = await asyncio.to_thread(_id, group, name, kind, definition)
        record = SchemaRecord(schema_id, definition, self._clock.now_ms())
        while schema_id not in self._ids:
            olds = self._definitions(group, name)
            rule = self._group(group).record.compatibility
            await asyncio.to_thread(_check_new, kind, rule, definition, olds)
            checked = partial(self._next_version, group, name, record, olds)  # of what is there when it is written
            await self._broker.update(checked)
        return self._shown(*self._ids[schema_id])

    def _definitions(self, group: str, name: str) -> dict[int, str]:
        """By version; none of a schema that is not there yet. Raises UnknownSchema: nor is the group."""
        return {at + 1: each.definition for at, each in enumerate(self._group(group).schemas.get(name, ()))}

    def _next_version(self, group: str, name: str, record: SchemaRecord, olds: dict[int, str]) -> Changes:
        """Changes that add a version behind those it was checked against; none where there are others now."""
        if record.id in self._ids or self._definitions(group, name) != olds:
            return {}
        if len(olds) >= VERSIONS_MAX or self._bytes + len(record.definition) > REGISTRY_BYTES_MAX:
            raise InvalidSetting(
                f"a schema has at most {VERSIONS_MAX} versions, and all of them {REGISTRY_BYTES_MAX} characters"
            )
        return {f"{_SCHEMA}{_quote(group)}/{_quote(name)}/{len(olds) + 1:06d}": pack(record)}

    async def delete(self, group: str, name: str) -> None:
        """Forget a schema with all its versions. Raises UnknownSchema."""
        prefix = f"{_SCHEMA}{_quote(group)}/{_quote(name)}/"
        await self._broker.update(
            lambda: {f"{prefix}{at + 1:06d}": None for at in range(len(self._versions(group, name)))}
        )

    def _check(self, group: str, kind: Format, definition: str) -> None:
        if len(definition) > model.SCHEMA_BYTES_MAX:
            raise MessageTooLarge(f"a definition has at most {model.SCHEMA_BYTES_MAX} characters")
        wanted = self._group(group).record.format
        if kind is not wanted:
            raise Unsupported(f"schemas of group {group!r} have the format {wanted}, not {kind}")

    def _versions(self, group: str, name: str) -> list[SchemaRecord]:
        found = self._group(group).schemas.get(name)
        if found is None:
            raise UnknownSchema(f"no schema {name[:80]!r} in group {group!r}")
        return found

    def _shown(self, group: str, name: str, version: int) -> Schema:
        found = self._groups[group]
        record = found.schemas[name][version - 1]
        return Schema(group, name, version, record.id, found.record.format, record.definition, record.created_ms)


def _id(group: str, name: str, kind: Format, definition: str) -> str:
    """32 hexadecimal digits, as Azure's serializers expect."""
    parts = (group.encode(), name.encode(), kind.encode(), model.fingerprint(kind, definition))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _check_new(kind: Format, rule: Compatibility, definition: str, olds: dict[int, str]) -> None:
    model.check(kind, definition)
    model.check_compatible(kind, rule, definition, olds)
