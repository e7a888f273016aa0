"""JSON Schema: whether everything one schema allows is allowed by another, as far as that can be shown.

There is no complete answer to that question. What is shown here goes keyword by keyword: types, enumerations, bounds,
required and named properties, additional properties, items, anyOf, allOf, local references. Any other keyword (pattern,
format, not, if, dependencies, ...) must stand in both schemas with the same value, or the answer is that compatibility
cannot be shown, which is a no. So a yes can be relied on, and a no may be too careful.

An object whose `additionalProperties` are not forbidden may have any member with any value. A later version that gives
such a member a type allows less than before, and that is said, however harmless it was meant.

Source: JSON Schema 2020-12, core and validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gridwire.core.errors import InvalidSchema
from gridwire.schemas.model import Answers, load

_SAYS_NOTHING: Final = frozenset(
    (
        "$schema", "$id", "id", "$comment", "$defs", "definitions",
        "title", "description", "default", "examples", "example", "deprecated",
        "readOnly", "writeOnly",
    )
)  # fmt: skip
_TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_ABOUT: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(words.split())
    for kind, words in {
        "string": "minLength maxLength pattern contentEncoding contentMediaType",
        "number": "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf",
        "array": "items prefixItems additionalItems minItems maxItems uniqueItems contains minContains maxContains",
        "object": "properties required additionalProperties patternProperties minProperties maxProperties "
        "propertyNames dependentRequired dependentSchemas dependencies unevaluatedProperties",
    }.items()
}
"""Keywords that speak of values of one type only."""

_LEAST: Final = frozenset(
    (
        "minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties",
    )
)  # fmt: skip
_MOST: Final = frozenset(
    (
        "maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties",
    )
)  # fmt: skip

Schema = Any
"""A dictionary or a boolean."""

_ANYTHING: Final[dict[str, Any]] = {}


def parse(definition: str) -> Schema:
    """A definition. It is not checked against the meta-schema. Raises InvalidSchema."""
    schema = load(definition)
    if not isinstance(schema, dict | bool):
        raise InvalidSchema("the definition is no JSON Schema: it is neither an object nor a boolean")
    return schema


def why_narrower(wide: str, narrow: str) -> str | None:
    """Where and why something `narrow` allows may not be allowed by `wide`; None if all of it is."""
    return _Comparison(parse(wide), parse(narrow)).why_roots()


class _Comparison:
    """Compares two schemas."""

    def __init__(self, wide: Schema, narrow: Schema) -> None:
        self._wide_root = wide
        self._narrow_root = narrow
        self._answers = Answers()
        self._keywords: dict[str, Callable[[Schema, Schema, str], str | None]] = {
            "type": self._type, "enum": self._values, "const": self._values, "required": self._required,
            "properties": self._properties, "additionalProperties": self._additional, "items": self._items,
            "allOf": self._all_of, "uniqueItems": self._unique,
        }  # fmt: skip

    def why_roots(self) -> str | None:
        return self.why(self._wide_root, self._narrow_root, "")

    def why(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        wide, narrow = _resolved(wide, self._wide_root), _resolved(narrow, self._narrow_root)
        if wide is False and narrow is not False:
            return f"{_at(path)}: nothing is allowed"
        if narrow is False or not _says(wide):
            return None
        narrow = _ANYTHING if narrow is True else narrow
        return self._answers.of(wide, narrow, lambda: self._why(wide, narrow, path))

    def _why(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        for word in ("anyOf", "oneOf"):  # what is narrow in every way it may be
            if _says(narrow) == {word}:
                reasons = (self.why(wide, each, path) for each in narrow[word])
                return next((reason for reason in reasons if reason is not None), None)
        if _says(wide) == {"anyOf"} and any(self.why(each, narrow, path) is None for each in wide["anyOf"]):
            return None
        types = _types(narrow)
        for word in sorted(_says(wide)):
            if not _concerns(word, types):
                continue
            reason = self._keywords.get(word, self._others(word))(wide, narrow, path)
            if reason is not None:
                return reason
        return None

    def _others(self, word: str) -> Callable[[Schema, Schema, str], str | None]:
        def compare(wide: Schema, narrow: Schema, path: str) -> str | None:
            new, old = wide[word], narrow.get(word)
            if _is_number(new) and _is_number(old):
                if (word in _LEAST and old >= new) or (word in _MOST and old <= new):
                    return None
                if word == "multipleOf" and isinstance(new, int) and new > 0 and old % new == 0:
                    return None
            if word in narrow and new == old and not _refers(new):
                return None
            return f"{_at(path)}: {word} may forbid what the other allows"

        return compare

    def _type(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        allowed = _types(wide) or _TYPES
        for kind in sorted(_types(narrow) or _TYPES):
            if kind not in allowed and not (kind == "integer" and "number" in allowed):
                return f"{_at(path)}: {kind} is not allowed"
        return None

    def _values(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        allowed, possible = _enumerated(wide), _enumerated(narrow)
        if possible is None:
            return f"{_at(path)}: only some values are allowed"
        missing = [value for value in possible if not any(_same(value, each) for each in allowed or ())]
        return f"{_at(path)}: {str(missing[0])[:40]!r} is not allowed" if missing else None

    def _required(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        missing = [name for name in wide["required"] if name not in narrow.get("required", ())]
        return f"{_at(path)}: member {missing[0]!r} is required" if missing else None

    def _properties(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        for name, schema in wide["properties"].items():
            place = f"{path}.{name}".lstrip(".")
            other = narrow.get("properties", {}).get(name)
            if other is None:
                if "patternProperties" in narrow:
                    return f"{place}: patternProperties of the other may allow anything here"
                other = narrow.get("additionalProperties", True)
            reason = self.why(schema, other, place)
            if reason is not None:
                return reason
        return None

    def _additional(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        if "patternProperties" in wide or "patternProperties" in narrow:
            return self._others("additionalProperties")(wide, narrow, path)
        named = wide.get("properties", {})
        for name, schema in narrow.get("properties", {}).items():
            if name not in named:
                reason = self.why(wide["additionalProperties"], schema, f"{path}.{name}".lstrip("."))
                if reason is not None:
                    return reason
        return self.why(wide["additionalProperties"], narrow.get("additionalProperties", True), path + ".*")

    def _items(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        tuples = isinstance(wide["items"], list) or isinstance(narrow.get("items"), list)
        if tuples or "prefixItems" in wide or "prefixItems" in narrow:
            return self._others("items")(wide, narrow, path)
        return self.why(wide["items"], narrow.get("items", True), path + "[]")

    def _all_of(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        reasons = (self.why(each, narrow, path) for each in wide["allOf"])
        return next((reason for reason in reasons if reason is not None), None)

    def _unique(self, wide: Schema, narrow: Schema, path: str) -> str | None:
        return f"{_at(path)}: items must be unique" if wide["uniqueItems"] and not narrow.get("uniqueItems") else None


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema behind a reference into the same document; any other reference stays and is compared as it stands."""
    for _ in range(10):  # a reference to a reference to ...
        if not isinstance(schema, dict) or _says(schema) != {"$ref"} or not isinstance(schema["$ref"], str):
            return schema
        target = root
        if not schema["$ref"].startswith("#"):
            return schema
        for step in filter(None, schema["$ref"][1:].split("/")):
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, dict) else None
        if not isinstance(target, dict | bool):
            return schema
        schema = target
    return schema


def _says(schema: Schema) -> set[str]:
    """Keywords that allow or forbid something."""
    return {word for word in schema if word not in _SAYS_NOTHING} if isinstance(schema, dict) else set()


def _types(schema: Schema) -> frozenset[str]:
    """Types a schema names, by its enumerated values where it names none; empty for any."""
    named = schema.get("type")
    if named is not None:
        return frozenset({named}) if isinstance(named, str) else frozenset(named)
    values = _enumerated(schema)
    return frozenset() if values is None else frozenset(map(_type_of, values))


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names[type(value)]


def _concerns(word: str, types: frozenset[str]) -> bool:
    """Whether a keyword says something of values of these types."""
    about = next((kind for kind, words in _ABOUT.items() if word in words), None)
    return about is None or not types or about in types or (about == "number" and "integer" in types)


def _enumerated(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _same(one: Any, other: Any) -> bool:
    """JSON's equality: true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refers(value: Any) -> bool:
    """Whether a reference stands in a value: its meaning may have changed although it did not."""
    if isinstance(value, dict):
        return any(word in ("$ref", "$dynamicRef", "$recursiveRef") for word in value) or any(
            map(_refers, value.values())
        )
    return isinstance(value, list) and any(map(_refers, value))


def _at(path: str) -> str:
    return path or "at the top"
