"""Avro: parsing by fastavro, and the specification's rules of schema resolution as a question of two schemas.

Source: Apache Avro 1.12 specification, "Schema Resolution"; logical type decimal.
"""

from __future__ import annotations

from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from gridwire.core.errors import InvalidSchema
from gridwire.schemas.model import Answers, load

Type = Any
"""A parsed type: a name, a list (union), or a dictionary."""

_PROMOTED: Final = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
"""Written as, may be read as."""

_RECORDS: Final = frozenset({"record", "error"})


def parse(definition: str) -> tuple[Type, dict[str, Type]]:
    """A definition with its named types by full name. Raises InvalidSchema."""
    named: dict[str, Type] = {}
    schema = load(definition)
    if isinstance(schema, dict) and any(name.startswith("__") for name in schema):
        raise InvalidSchema("the definition has members that start with '__', which its parser keeps for itself")
    try:
        parsed = fastavro.parse_schema(schema, named_schemas=named)
    except (SchemaParseException, UnknownType) as error:
        raise InvalidSchema(f"the definition is no Avro schema: {type(error).__name__} {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:  # how the parser meets nonsense
        raise InvalidSchema(f"the definition is no Avro schema: {error!r}") from None
    return parsed, named


def why_unreadable(reader: str, writer: str) -> str | None:
    """Where and why data written with one definition cannot be read with the other; None if all of it can."""
    parsed_reader, reader_names = parse(reader)
    parsed_writer, writer_names = parse(writer)
    return _Comparison(reader_names, writer_names).why(parsed_reader, parsed_writer, "")


class _Comparison:
    """Compares two schemas."""

    def __init__(self, reader_names: dict[str, Type], writer_names: dict[str, Type]) -> None:
        self._reader_names = reader_names
        self._writer_names = writer_names
        self._answers = Answers()

    def why(self, reader: Type, writer: Type, path: str) -> str | None:
        reader, writer = _whole(reader, self._reader_names), _whole(writer, self._writer_names)
        return self._answers.of(reader, writer, lambda: self._why(reader, writer, path))

    def _why(self, reader: Type, writer: Type, path: str) -> str | None:
        if isinstance(writer, list):
            reasons = (self.why(reader, branch, path) for branch in writer)
            return next((reason for reason in reasons if reason is not None), None)
        if isinstance(reader, list):
            if any(self.why(branch, writer, path) is None for branch in reader):
                return None
            return f"{_at(path)}: no branch of the reader's union takes {_name(writer)}"
        read, written = _kind(reader), _kind(writer)
        if read in _RECORDS and written in _RECORDS:
            return self._records(reader, writer, path)
        if read != written:
            promoted = read in _PROMOTED.get(written, ())
            return None if promoted else f"{_at(path)}: {_name(writer)} cannot be read as {_name(reader)}"
        if read == "array":
            return self.why(reader["items"], writer["items"], path + "[]")
        if read == "map":
            return self.why(reader["values"], writer["values"], path + "{}")
        if read == "enum":
            return _enums(reader, writer, path)
        return _plain(reader, writer, path)

    def _records(self, reader: Type, writer: Type, path: str) -> str | None:
        if not _same_name(reader, writer):
            return f"{_at(path)}: record {writer['name']} cannot be read as {reader['name']}"
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            place = f"{path}.{field['name']}".lstrip(".")
            names = [field["name"], *field.get("aliases", ())]
            found = next((written[name] for name in names if name in written), None)
            if found is None:
                if "default" not in field:
                    return f"{place}: the reader has a field without default that is not written"
                continue
            reason = self.why(field["type"], found["type"], place)
            if reason is not None:
                return reason
        return None


def _enums(reader: Type, writer: Type, path: str) -> str | None:
    if not _same_name(reader, writer):
        return f"{_at(path)}: enum {writer['name']} cannot be read as {reader['name']}"
    unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
    if unknown and "default" not in reader:
        return f"{_at(path)}: the reader's enum lacks {unknown[0]!r} and has no default"
    return None


def _plain(reader: Type, writer: Type, path: str) -> str | None:
    """Types of the same kind that hold no others."""
    if _kind(reader) == "fixed" and (not _same_name(reader, writer) or reader["size"] != writer["size"]):
        return f"{_at(path)}: fixed {writer['name']} of {writer['size']} bytes cannot be read as {_name(reader)}"
    read, written = _decimal(reader), _decimal(writer)
    if read and written and read != written:
        return f"{_at(path)}: decimal {written} cannot be read as {read}"
    return None


def _decimal(schema: Type) -> tuple[int, int] | None:
    """Precision and scale of a decimal."""
    if isinstance(schema, dict) and schema.get("logicalType") == "decimal":
        return schema.get("precision", 0), schema.get("scale", 0)
    return None


def _whole(schema: Type, names: dict[str, Type]) -> Type:
    """The type behind a name, and behind a dictionary that only wraps a name."""
    while True:
        if isinstance(schema, str) and schema in names:
            return names[schema]
        if isinstance(schema, dict) and isinstance(schema["type"], dict | list):
            schema = schema["type"]
        elif isinstance(schema, dict) and schema["type"] in names:
            return names[schema["type"]]
        else:
            return schema


def _kind(schema: Type) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _name(schema: Type) -> str:
    return f"{_kind(schema)} {schema['name']}" if isinstance(schema, dict) and "name" in schema else _kind(schema)


def _same_name(reader: Type, writer: Type) -> bool:
    """Unqualified names decide, and the reader's aliases."""
    names = {_last(name) for name in (reader["name"], *reader.get("aliases", ()))}
    return _last(writer["name"]) in names


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _at(path: str) -> str:
    return path or "at the top"
