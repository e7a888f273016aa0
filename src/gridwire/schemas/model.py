"""Formats, compatibility, and the one place that asks a format's own rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from gridwire.core.errors import IncompatibleSchema, InvalidSchema, InvalidSetting
from gridwire.core.limits import MIB

SCHEMA_BYTES_MAX: Final = MIB
"""One definition; Azure's own limit."""

DEPTH_MAX: Final = 100
"""Nesting of a definition's JSON: what walks it is recursive."""

COMPARISONS_MAX: Final = 100_000
"""Pairs of types looked at to compare two definitions; some tenths of a second."""


class Format(StrEnum):
    """What language a schema is written in."""

    AVRO = "Avro"
    JSON = "Json"
    CUSTOM = "Custom"


class Compatibility(StrEnum):
    """What a new version owes to the older ones.

    Backward: readers with the new version understand what was written with the older ones. Forward: readers with the
    older ones understand what is written with the new one. Full: both.
    """

    NONE = "None"
    BACKWARD = "Backward"
    FORWARD = "Forward"
    FULL = "Full"


def parse_format(text: str) -> Format:
    """A format by name, in any case. Raises InvalidSetting."""
    for each in Format:
        if each.lower() == text.strip().lower():
            return each
    raise InvalidSetting(f"unknown schema format {text[:40]!r}: choose from {', '.join(Format)}")


def parse_compatibility(text: str) -> Compatibility:
    """A compatibility by name, in any case. Raises InvalidSetting."""
    for each in Compatibility:
        if each.lower() == text.strip().lower():
            return each
    raise InvalidSetting(f"unknown compatibility {text[:40]!r}: choose from {', '.join(Compatibility)}")


class Answers:
    """Reasons found for pairs of types, so that none is compared twice and a type inside itself comes to an end.

    A pair that is being compared counts as compatible meanwhile: a type inside itself is as compatible as the rest of
    it. When the pair turns out not to be, what was concluded from that is forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str | None] = {}
        self._left = COMPARISONS_MAX

    def of(self, reader: Any, writer: Any, compare: Callable[[], str | None]) -> str | None:
        """The reason for a pair. Both must live as long as this. Raises InvalidSchema when there are too many pairs."""
        pair = id(reader), id(writer)
        if pair in self._known:
            return self._known[pair]
        self._left -= 1
        if self._left < 0:
            raise InvalidSchema("the definitions are too large to be compared: register them in a group without checks")
        before = len(self._known)
        self._known[pair] = None
        reason = compare()
        if reason is not None:
            while len(self._known) > before:
                self._known.popitem()
            self._known[pair] = reason
        return reason


def load(definition: str) -> Any:
    """The JSON of a definition. Raises InvalidSchema."""
    try:
        value = msgspec.json.decode(definition)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidSchema(f"the definition is not JSON: {error}") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise InvalidSchema(f"the definition is nested more than {DEPTH_MAX} deep")
        level = [
            part
            for each in level
            if isinstance(each, dict | list)
            for part in (each.values() if isinstance(each, dict) else each)
        ]
    return value


def check(kind: Format, definition: str) -> None:
    """Raises InvalidSchema when the text is no schema of its format, MessageTooLarge is the caller's business."""
    if kind is Format.AVRO:
        from gridwire.schemas import avro  # its parser takes 20 MB that most hubs never need

        avro.parse(definition)
    elif kind is Format.JSON:
        from gridwire.schemas import json_schema

        json_schema.parse(definition)


def fingerprint(kind: Format, definition: str) -> bytes:
    """Equal for definitions that differ in white space and order of members only."""
    if kind is Format.CUSTOM:
        return definition.encode()
    return msgspec.json.encode(load(definition), order="sorted")


def check_compatible(kind: Format, rule: Compatibility, new: str, olds: Mapping[int, str]) -> None:
    """Raises IncompatibleSchema, which names the version and the place, or InvalidSchema.

    Args:
        olds: definition by version.
    """
    if rule is Compatibility.NONE or kind is Format.CUSTOM:
        return
    why = _comparison(kind)
    for version, old in olds.items():
        for reads, reader, writer in (("new", new, old), ("older", old, new)):
            if rule is (Compatibility.FORWARD if reads == "new" else Compatibility.BACKWARD):
                continue
            try:
                reason = why(reader, writer)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                raise InvalidSchema(f"the definitions cannot be compared: {error!r:.200}") from None
            if reason is not None:
                raise IncompatibleSchema(
                    f"not {rule.value.lower()} compatible with version {version}: the {reads} definition as reader "
                    f"does not understand the other, {reason}"
                )


def _comparison(kind: Format) -> Callable[[str, str], str | None]:
    """(reader, writer) to the reason why the reader does not understand the writer, or None."""
    if kind is Format.AVRO:
        from gridwire.schemas import avro

        return avro.why_unreadable
    from gridwire.schemas import json_schema

    return json_schema.why_narrower
