"""Schemas: what is one, and which new version its readers understand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gridwire.core.errors import IncompatibleSchema, InvalidSchema, InvalidSetting
from gridwire.schemas import avro, json_schema
from gridwire.schemas.model import (
    Compatibility,
    Format,
    check,
    check_compatible,
    fingerprint,
    parse_compatibility,
    parse_format,
)


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
FIXED = {"type": "fixed", "name": "F", "size": 4}
LIST = record(field("value", "int"), field("next", ["null", "R"]))
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}

READABLE: list[tuple[str, Any, Any]] = [
    ("the same", record(field("a", "int")), record(field("a", "int"))),
    ("int as long", "long", "int"),
    ("long as double", "double", "long"),
    ("float as double", "double", "float"),
    ("string as bytes", "bytes", "string"),
    ("bytes as string", "string", "bytes"),
    ("a written field is not wanted", record(), record(field("a", "int"))),
    ("a wanted field has a default", record(field("a", "int", default=1)), record()),
    ("a field by its old name", record(field("b", "int", aliases=["a"])), record(field("a", "int"))),
    ("a record by its old name", record(name="S", aliases=["R"]), record()),
    ("another namespace", record(namespace="x"), record(namespace="y")),
    ("more symbols", {**ENUM, "symbols": ["A", "B", "C"]}, ENUM),
    ("fewer symbols with a default", {**ENUM, "symbols": ["A"], "default": "A"}, ENUM),
    ("into a union", ["null", "long"], "int"),
    ("out of a union all of which fits", "long", ["int", "long"]),
    ("array of promoted", {"type": "array", "items": "long"}, {"type": "array", "items": "int"}),
    ("map of promoted", {"type": "map", "values": "double"}, {"type": "map", "values": "float"}),
    ("fixed", FIXED, FIXED),
    ("a type inside itself", LIST, LIST),
    ("decimal", DECIMAL, DECIMAL),
    ("logical type over its base", {"type": "long", "logicalType": "timestamp-millis"}, "long"),
    ("a named type used twice", record(field("a", ENUM), field("b", "E")), record(field("a", ENUM), field("b", "E"))),
]
UNREADABLE: list[tuple[str, Any, Any, str]] = [
    ("long as int", "int", "long", "long cannot be read as int"),
    ("string as int", "int", "string", "string"),
    ("a wanted field without default", record(field("a", "int")), record(), "a: "),
    ("a field of another type", record(field("a", "int")), record(field("a", "string")), "a: "),
    ("deep", record(field("a", record(field("b", "int"), name="I"))),
     record(field("a", record(field("b", "string"), name="I"))), "a.b: "),
    ("another record", record(name="S"), record(), "record R"),
    ("fewer symbols", {**ENUM, "symbols": ["A"]}, ENUM, "'B'"),
    ("another enum", {**ENUM, "name": "G"}, ENUM, "enum E"),
    ("out of a union some of which does not fit", "int", ["int", "string"], "string"),
    ("into a union without it", ["null", "int"], "string", "union"),
    ("fixed of another size", FIXED, {**FIXED, "size": 5}, "5 bytes"),
    ("a list of something else", record(field("value", "int"), field("next", ["null", "R"])),
     record(field("value", "string"), field("next", ["null", "R"])), "value: "),
    ("decimal of another scale", {**DECIMAL, "scale": 3}, DECIMAL, "decimal"),
    ("items", {"type": "array", "items": "int"}, {"type": "array", "items": "string"}, "[]"),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "writer"), [row[1:] for row in READABLE], ids=[row[0] for row in READABLE])
def test_avro_readable(reader: Any, writer: Any) -> None:
    assert avro.why_unreadable(json.dumps(reader), json.dumps(writer)) is None


@pytest.mark.parametrize(
    ("reader", "writer", "why"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE]
)
def test_avro_unreadable(reader: Any, writer: Any, why: str) -> None:
    assert why in (avro.why_unreadable(json.dumps(reader), json.dumps(writer)) or "")


def test_a_failed_branch_leaves_no_wrong_conclusions() -> None:
    """The first branch of the union is tried and fails late; what was concluded inside it must not help the second."""
    inner = [field("self", ["null", "R"]), field("last", "int")]
    writer = record(field("self", ["null", "R"]), field("last", "string"))
    reader = ["null", record(*inner), "string"]
    assert avro.why_unreadable(json.dumps(reader), json.dumps(writer)) is not None


def test_fastavro_agrees() -> None:
    """The oracle: what is called readable is read, and what is not is refused, by fastavro's own resolution."""
    import io

    import fastavro

    values = {"int": 1, "long": 2, "float": 0.5, "double": 0.5, "string": "x", "bytes": b"x", "boolean": True}
    for written, value in values.items():
        for read in values:
            schema, other = (fastavro.parse_schema(record(field("a", kind))) for kind in (written, read))
            out = io.BytesIO()
            fastavro.schemaless_writer(out, schema, {"a": value})
            out.seek(0)
            try:
                fastavro.schemaless_reader(out, schema, other)
                readable = True
            except fastavro.read.SchemaResolutionError:
                readable = False
            why = avro.why_unreadable(json.dumps(record(field("a", read))), json.dumps(record(field("a", written))))
            assert (why is None) == readable, (written, read)


OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED = {**OPEN, "additionalProperties": False}
TREE = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"k": {"$ref": "#/$defs/t"}}}}}

WIDER: list[tuple[str, Any, Any]] = [
    ("anything", True, CLOSED),
    ("nothing is within everything", OPEN, False),
    ("the same", CLOSED, CLOSED),
    ("annotations say nothing", {**OPEN, "title": "new", "description": "d"}, OPEN),
    ("a new optional member of a closed object", {**CLOSED, "properties": {**CLOSED["properties"], "b": {}}}, CLOSED),
    ("integer is a number", {"type": "number"}, {"type": "integer"}),
    ("one more type", {"type": ["string", "null"]}, {"type": "string"}),
    ("no longer required", OPEN, {**OPEN, "required": ["a"]}),
    ("more values", {"enum": [1, 2, 3]}, {"enum": [1, 2]}),
    ("const within enum", {"enum": ["x", "y"]}, {"const": "x"}),
    ("enumerated texts are texts", {"type": "string"}, {"enum": ["x"]}),
    ("lower bound", {"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 5}),
    ("longer", {"type": "string", "maxLength": 9}, {"type": "string", "maxLength": 5}),
    ("bounds of another type", {"type": ["string", "integer"], "minLength": 2}, {"type": "integer"}),
    ("multiples", {"type": "integer", "multipleOf": 5}, {"type": "integer", "multipleOf": 10}),
    ("items", {"type": "array", "items": {"type": "number"}}, {"type": "array", "items": {"type": "integer"}}),
    ("one of many", {"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "null"}),
    ("each of many", {"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ("all of", {"allOf": [{"type": "object"}]}, OPEN),
    ("a schema inside itself", TREE, TREE),
    ("a keyword that stays", {"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^a"}),
]
NARROWER: list[tuple[str, Any, Any, str]] = [
    ("nothing", False, OPEN, "nothing"),
    ("closed", CLOSED, OPEN, "nothing is allowed"),
    ("a type for what was open", {**OPEN, "properties": {**OPEN["properties"], "b": {"type": "string"}}}, OPEN, "b: "),
    ("required", {**OPEN, "required": ["a"]}, OPEN, "'a' is required"),
    ("a number is no integer", {"type": "integer"}, {"type": "number"}, "number"),
    ("fewer values", {"enum": [1]}, {"enum": [1, 2]}, "'2'"),
    ("true is not 1", {"enum": [1]}, {"enum": [True]}, "'True'"),
    ("values for a type", {"enum": ["x"]}, {"type": "string"}, "some values"),
    ("higher bound", {"minimum": 5}, {"minimum": 0}, "minimum"),
    ("a bound at all", {"maxLength": 5}, {}, "maxLength"),
    ("another pattern", {"pattern": "^a"}, {"pattern": "^b"}, "pattern"),
    ("unknown keyword", {"not": {"type": "string"}}, {}, "not"),
    ("references that may mean something else", {"not": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}},
     {"not": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "null"}}}, "not"),
    ("inside itself", {**TREE, "$defs": {"t": {**TREE["$defs"]["t"], "required": ["k"]}}}, TREE, "required"),
    ("unique", {"uniqueItems": True}, {}, "unique"),
    ("oneOf is not shown", {"oneOf": [{"type": "string"}, {"type": "null"}]}, {"type": "null"}, "oneOf"),
]  # fmt: skip


@pytest.mark.parametrize(("wide", "narrow"), [row[1:] for row in WIDER], ids=[row[0] for row in WIDER])
def test_json_wider(wide: Any, narrow: Any) -> None:
    assert json_schema.why_narrower(json.dumps(wide), json.dumps(narrow)) is None


@pytest.mark.parametrize(("wide", "narrow", "why"), [row[1:] for row in NARROWER], ids=[row[0] for row in NARROWER])
def test_json_narrower(wide: Any, narrow: Any, why: str) -> None:
    assert why in (json_schema.why_narrower(json.dumps(wide), json.dumps(narrow)) or "")


ONE, TWO = json.dumps(record(field("a", "int"))), json.dumps(record(field("a", "int"), field("b", "int")))
BOTH = json.dumps(record(field("a", "int"), field("b", "int", default=0)))


@pytest.mark.parametrize(
    ("rule", "new", "old", "good"),
    [
        ("none", TWO, ONE, True),
        ("backward", TWO, ONE, False),  # a new reader misses b in what is there
        ("backward", ONE, TWO, True),
        ("forward", TWO, ONE, True),
        ("forward", ONE, TWO, False),  # an older reader misses b in what is to come
        ("full", BOTH, ONE, True),
        ("full", TWO, ONE, False),
        ("full", ONE, TWO, False),
    ],
)
def test_rules(rule: str, new: str, old: str, good: bool) -> None:
    wanted = parse_compatibility(rule)
    if good:
        check_compatible(Format.AVRO, wanted, new, {3: old})
    else:
        with pytest.raises(IncompatibleSchema, match=r"version 3.*b: "):
            check_compatible(Format.AVRO, wanted, new, {3: old})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Format.AVRO, "{"),
        (Format.AVRO, '"nonsense"'),
        (Format.AVRO, "5"),
        (Format.AVRO, '{"type":"record","name":"r","fields":7}'),
        (Format.AVRO, '{"type":"record","__fastavro_parsed__":true}'),
        (Format.AVRO, '{"type":"array","items":' * 150 + '"int"' + "}" * 150),
        (Format.AVRO, "[" * 100_000),
        (Format.JSON, "[]"),
        (Format.JSON, '"x"'),
        (Format.JSON, '{"items":' * 150 + "{}" + "}" * 150),
    ],
)
def test_what_is_no_schema(kind: Format, text: str) -> None:
    with pytest.raises(InvalidSchema):
        check(kind, text)


@pytest.mark.parametrize("bad", ['{"properties": 5}', '{"required": 5}', '{"type": 7}', '{"allOf": 1}', '{"enum": {}}'])
def test_malformed_keywords_end_in_a_reason(bad: str) -> None:
    with pytest.raises((InvalidSchema, IncompatibleSchema)):
        check_compatible(Format.JSON, Compatibility.BACKWARD, bad, {1: '{"type": "object"}'})


def test_large_comparisons_end() -> None:
    many = [record(*(field(f"f{n}", ["null", "R0", "int"]) for n in range(400)), name=f"R{k}") for k in range(1)]
    text = json.dumps({"anyOf": [{"properties": {f"p{n}": {"anyOf": [{"const": n}] * 20}}} for n in range(400)]})
    assert avro.why_unreadable(json.dumps(many[0]), json.dumps(many[0])) is None
    with pytest.raises((InvalidSchema, IncompatibleSchema)):
        check_compatible(Format.JSON, Compatibility.BACKWARD, text, {1: text.replace("const", "minimum")})


def test_fingerprints_and_names() -> None:
    assert fingerprint(Format.AVRO, '{"type": "int", "x": 1}') == fingerprint(Format.AVRO, '{"x":1,"type":"int"}')
    assert fingerprint(Format.CUSTOM, "a b") != fingerprint(Format.CUSTOM, "a  b")
    assert (parse_format(" avro"), parse_compatibility("FULL")) == (Format.AVRO, Compatibility.FULL)
    for parse in (parse_format, parse_compatibility):
        with pytest.raises(InvalidSetting, match="choose from"):
            parse("other")
