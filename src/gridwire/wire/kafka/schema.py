"""The notation of the message tables, and its parser.

One table describes one API. Its first line names it, `>` starts the request, `<` the response; indentation nests:

    3 Metadata 0-13 flexible 9
    >
    Topics [] null 1+
      TopicId uuid 10+
      Name string null 10+
    AllowAutoTopicCreation bool 4+ = true

A field line is `Name type [versions] [null [versions]] [tag N] [= default]`. Versions are `3`, `0-3` or `3+` and
default to all; `null` without versions holds wherever the field exists. Types are those of the specification; `[]` is
an array of structures, `[]int32` one of numbers, `{}` a structure. Names are spelled as in the specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

Versions = tuple[int, int]
"""First and last version, both included."""

ALL: Final[Versions] = (0, 32767)
NEVER: Final[Versions] = (1, 0)

_VERSIONS = re.compile(r"(\d+)(?:-(\d+)|(\+))?\Z")
_ZERO: Final[dict[str, Any]] = {
    "bool": False, "int8": 0, "int16": 0, "int32": 0, "int64": 0, "float64": 0.0, "string": "", "bytes": b"",
    "records": None, "uuid": UUID(int=0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: where it exists, where it may be null, its tag if it is a tagged field."""

    name: str
    type: str
    versions: Versions
    nullable: Versions
    tag: int | None
    default: Any
    fields: tuple[Field, ...]

    def exists(self, version: int) -> bool:
        """Whether the field is part of that version."""
        return self.versions[0] <= version <= self.versions[1]

    def may_be_null(self, version: int) -> bool:
        """Whether null is legal in that version."""
        return self.nullable[0] <= version <= self.nullable[1]


@dataclass(frozen=True, slots=True)
class Api:
    """One API: its key, the versions described, the first flexible version, and both messages."""

    key: int
    name: str
    versions: Versions
    flexible_from: int
    request: tuple[Field, ...]
    response: tuple[Field, ...]

    def flexible(self, version: int) -> bool:
        """Whether that version uses compact encodings and tagged fields."""
        return version >= self.flexible_from


def parse_tables(text: str) -> list[Api]:
    """Parse tables separated by blank lines.

    Raises:
        ValueError: a table is malformed (a bug of ours, found at import).
    """
    return [_parse_table(block.splitlines()) for block in text.strip().split("\n\n")]


def _parse_table(lines: list[str]) -> Api:
    key, name, versions, _, flexible_from = lines[0].split()
    request_at, response_at = lines.index(">"), lines.index("<")
    return Api(
        int(key),
        name,
        _versions(versions),
        int(flexible_from),
        _fields(lines[request_at + 1 : response_at], 0),
        _fields(lines[response_at + 1 :], 0),
    )


def _versions(text: str) -> Versions:
    match = _VERSIONS.match(text)
    if match is None:
        raise ValueError(f"not a version range: {text!r}")
    first = int(match[1])
    if match[3]:
        return first, ALL[1]
    return first, int(match[2] or first)


def _fields(lines: list[str], depth: int) -> tuple[Field, ...]:
    """Fields at one depth; lines that are deeper belong to the field above them."""
    found = []
    at = 0
    while at < len(lines):
        below = at + 1
        while below < len(lines) and _depth(lines[below]) > depth:
            below += 1
        found.append(_field(lines[at], _fields(lines[at + 1 : below], depth + 2)))
        at = below
    return tuple(found)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _field(line: str, children: tuple[Field, ...]) -> Field:
    words, _, default_text = line.partition(" = ")
    name, kind, *rest = words.split()
    versions, nullable, tag = ALL, NEVER, None
    while rest:
        word = rest.pop(0)
        if word == "null":
            nullable = _versions(rest.pop(0)) if rest and _VERSIONS.match(rest[0]) else versions
        elif word == "tag":
            tag = int(rest.pop(0))
        else:
            versions = _versions(word)
    return Field(name, kind, versions, nullable, tag, _default(kind, default_text.strip()), children)


def _default(kind: str, text: str) -> Any:
    if text == "null":
        return None
    if not text:
        return [] if kind.startswith("[]") else {} if kind == "{}" else _ZERO[kind]
    if kind == "bool":
        return text == "true"
    return int(text) if kind.startswith("int") else text
