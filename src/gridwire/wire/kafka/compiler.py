"""Turns a field table and a version into one decoder and one encoder closure.

Runs of fixed-width fields become one `struct` call. A structure is a `dict` keyed by the specification's names; fields
a version lacks are absent when decoded and ignored when encoded, fields left out when encoding take their default.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gridwire.core.errors import LocalProtocolError, RemoteProtocolError
from gridwire.wire.kafka import primitives as p
from gridwire.wire.kafka.primitives import Buffer, Decoder, Encoder
from gridwire.wire.kafka.schema import NEVER, Field

Struct = dict[str, Any]
"""A decoded structure: specification name to value."""

_Run = tuple[struct.Struct, tuple[str, ...]]


def least_size(fields: Sequence[Field], version: int, flexible: bool) -> int:
    """Bytes a structure takes at the very least; bounds array counts before anything is allocated."""
    total = 1 if flexible else 0
    for field in fields:
        if field.exists(version) and field.tag is None:
            absent = field.type == "{}" and field.may_be_null(version)
            total += 1 if absent else _least(field.type, field.fields, version, flexible)
    return max(total, 1)


def _least(kind: str, fields: Sequence[Field], version: int, flexible: bool) -> int:
    if kind in p.FIXED:
        return struct.calcsize(">" + p.FIXED[kind])
    if kind == "uuid":
        return 16
    if kind == "{}":
        return least_size(fields, version, flexible)
    if flexible:
        return 1
    return 2 if kind == "string" else 4


def _split(fields: Sequence[Field], version: int) -> tuple[list[list[Field]], list[Field]]:
    """Plain fields as runs that are read together (fixed width) or alone, and the tagged fields."""
    runs: list[list[Field]] = []
    tagged = []
    for field in fields:
        if not field.exists(version):
            continue
        if field.tag is not None:
            tagged.append(field)
        elif field.type in p.FIXED and runs and runs[-1][0].type in p.FIXED:
            runs[-1].append(field)
        else:
            runs.append([field])
    return runs, tagged


def _run_struct(run: list[Field]) -> struct.Struct:
    return struct.Struct(">" + "".join(p.FIXED[field.type] for field in run))


def compile_decoder(fields: Sequence[Field], version: int, flexible: bool) -> Decoder:
    """Decoder of a structure at one version."""
    runs, tagged = _split(fields, version)
    steps: list[tuple[struct.Struct | None, Any, Any]] = []
    for run in runs:
        if run[0].type in p.FIXED:
            steps.append((_run_struct(run), tuple(field.name for field in run), None))
        else:
            steps.append((None, run[0].name, _decoder(run[0], version, flexible)))
    tags = {field.tag: (field.name, _decoder(field, version, flexible)) for field in tagged}

    def decode(buffer: Buffer, position: int) -> tuple[Struct, int]:
        out: Struct = {}
        for fixed, name, decoder in steps:
            if fixed is None:
                out[name], position = decoder(buffer, position)
            else:
                out.update(zip(name, fixed.unpack_from(buffer, position), strict=True))
                position += fixed.size
        if flexible:
            position = _decode_tags(buffer, position, tags, out) if buffer[position] else position + 1
        return out, position

    return decode


def _decode_tags(buffer: Buffer, position: int, tags: dict[int | None, tuple[str, Decoder]], out: Struct) -> int:
    count, position = p.read_uvarint(buffer, position)
    for _ in range(count):
        tag, position = p.read_uvarint(buffer, position)
        size, position = p.read_uvarint(buffer, position)
        end = position + size
        if end > len(buffer):
            raise RemoteProtocolError("tagged field runs past the end of the frame")
        if tag in tags:
            name, decoder = tags[tag]
            out[name], after = decoder(buffer[position:end], 0)
            if after != size:
                raise RemoteProtocolError(f"tagged field {name} is {size} bytes long but holds {after}")
        position = end
    return position


def _element(field: Field) -> Field:
    """One element of an array field, as a field of its own; elements are never null."""
    return Field(field.name, field.type[2:] or "{}", field.versions, NEVER, None, None, field.fields)


def _decoder(field: Field, version: int, flexible: bool) -> Decoder:
    nullable = field.may_be_null(version)
    if field.type == "{}":
        decoder = compile_decoder(field.fields, version, flexible)
        return _nullable_decoder(decoder) if nullable else decoder
    if field.type.startswith("[]"):
        element = field.type[2:]
        decoder = _decoder(_element(field), version, flexible)
        least = _least(element or "{}", field.fields, version, flexible)
        return _array_decoder(decoder, p.read_compact_length if flexible else p.read_length32, least, nullable)
    if field.type == "uuid":
        return p.uuid_decoder
    if field.type in p.FIXED:
        return _fixed_decoder(struct.Struct(">" + p.FIXED[field.type]))
    if field.type == "string":
        return p.string_decoder(p.read_compact_length if flexible else p.read_length16, nullable)
    read_length = p.read_compact_length if flexible else p.read_length32
    return p.records_decoder(read_length) if field.type == "records" else p.bytes_decoder(read_length, nullable)


def _nullable_decoder(whole: Decoder) -> Decoder:
    """A structure behind a byte that is negative where there is none."""

    def decode(buffer: Buffer, position: int) -> tuple[Any, int]:
        return (None, position + 1) if buffer[position] > 127 else whole(buffer, position + 1)

    return decode


def _nullable_encoder(whole: Encoder) -> Encoder:
    def encode(out: bytearray, value: Any) -> None:
        if value is None:
            out.append(255)
        else:
            out.append(1)
            whole(out, value)

    return encode


def _fixed_decoder(fixed: struct.Struct) -> Decoder:
    def decode(buffer: Buffer, position: int) -> tuple[Any, int]:
        return fixed.unpack_from(buffer, position)[0], position + fixed.size

    return decode


def _array_decoder(element: Decoder, read_length: p.LengthReader, least: int, nullable: bool) -> Decoder:
    def decode(buffer: Buffer, position: int) -> tuple[list[Any] | None, int]:
        count, position = read_length(buffer, position)
        p.check_length(count, buffer, position, least)
        if count < 0:
            if not nullable:
                raise RemoteProtocolError("null array where the protocol forbids it")
            return None, position
        out = []
        for _ in range(count):
            value, position = element(buffer, position)
            out.append(value)
        return out, position

    return decode


def compile_encoder(fields: Sequence[Field], version: int, flexible: bool) -> Encoder:
    """Encoder of a structure at one version.

    Raises:
        LocalProtocolError: (when called) a name the table does not know, or null where it is forbidden.
    """
    runs, tagged = _split(fields, version)
    names = frozenset(field.name for field in fields)
    steps: list[tuple[struct.Struct | None, Any, Any]] = []
    for run in runs:
        if run[0].type in p.FIXED:
            steps.append((_run_struct(run), tuple((field.name, field.default) for field in run), None))
        else:
            steps.append((None, (run[0].name, run[0].default), _encoder(run[0], version, flexible)))
    tags = [(field, _encoder(field, version, flexible)) for field in sorted(tagged, key=lambda field: field.tag or 0)]

    def encode(out: bytearray, value: Struct) -> None:
        if not value.keys() <= names:
            raise LocalProtocolError(f"unknown fields {sorted(value.keys() - names)}")
        get = value.get
        for fixed, name, encoder in steps:
            if fixed is None:
                encoder(out, get(*name))
            else:
                out += fixed.pack(*[get(*each) for each in name])
        if flexible:
            _encode_tags(out, value, tags)

    return encode


def _encode_tags(out: bytearray, value: Struct, tags: list[tuple[Field, Encoder]]) -> None:
    present = [(field, encoder) for field, encoder in tags if value.get(field.name, field.default) != field.default]
    p.write_uvarint(out, len(present))
    for field, encoder in present:
        body = bytearray()
        encoder(body, value[field.name])
        p.write_uvarint(out, field.tag or 0)
        p.write_uvarint(out, len(body))
        out += body


def _encoder(field: Field, version: int, flexible: bool) -> Encoder:
    nullable = field.may_be_null(version)
    if field.type == "{}":
        encoder = compile_encoder(field.fields, version, flexible)
        return _nullable_encoder(encoder) if nullable else encoder
    if field.type.startswith("[]"):
        encoder = _encoder(_element(field), version, flexible)
        return _array_encoder(encoder, p.write_compact_length if flexible else p.write_length32, nullable)
    if field.type == "uuid":
        return p.uuid_encoder
    if field.type in p.FIXED:
        return _fixed_encoder(struct.Struct(">" + p.FIXED[field.type]))
    if field.type == "string":
        return p.string_encoder(p.write_compact_length if flexible else p.write_length16, nullable)
    return p.bytes_encoder(p.write_compact_length if flexible else p.write_length32, nullable)


def _fixed_encoder(fixed: struct.Struct) -> Encoder:
    def encode(out: bytearray, value: Any) -> None:
        out += fixed.pack(value)

    return encode


def _array_encoder(element: Encoder, write_length: p.LengthWriter, nullable: bool) -> Encoder:
    def encode(out: bytearray, values: Sequence[Any] | None) -> None:
        if values is None:
            if not nullable:
                raise LocalProtocolError("null array where the protocol forbids it")
            write_length(out, -1)
            return
        write_length(out, len(values))
        for value in values:
            element(out, value)

    return encode
