"""The wire package's small parts: schema notation, primitives, frames, headers, error codes, ledger."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode as KioErrorCode

from gridwire.core import errors
from gridwire.core.errors import LocalProtocolError, RemoteProtocolError
from gridwire.groups.model import GroupError
from gridwire.heads.kafka.context import code_of_group
from gridwire.heads.kafka.handlers import HANDLERS
from gridwire.wire.kafka import codec, primitives
from gridwire.wire.kafka.errors import ErrorCode, code_of, coordinator_code_of
from gridwire.wire.kafka.ledger import NOT_SERVED, ledger
from gridwire.wire.kafka.schema import parse_tables

TABLE = """
7 Example 1-3 flexible 2
>
Name string null 2+
Parts [] 2+
  Index int32
  Ids []int64 3+ null
Note string 3+ tag 4 = none
<
ErrorCode int16 = -1
"""


def test_notation() -> None:
    (api,) = parse_tables(TABLE)
    assert (api.key, api.name, api.versions, api.flexible_from) == (7, "Example", (1, 3), 2)
    name, parts, note = api.request
    assert not name.may_be_null(1)
    assert name.may_be_null(2)
    assert [field.name for field in parts.fields] == ["Index", "Ids"]
    assert (parts.exists(1), parts.exists(2)) == (False, True)
    assert parts.fields[1].may_be_null(3)
    assert (note.tag, note.default) == (4, "none")
    assert api.response[0].default == -1
    with pytest.raises(ValueError, match="version range"):
        parse_tables("7 Example 1-3 flexible 2\n>\nName string often\n<")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, 2**31 - 1, 2**32 - 1])
def test_uvarint(value: int) -> None:
    out = bytearray()
    primitives.write_uvarint(out, value)
    assert primitives.read_uvarint(out, 0) == (value, len(out))


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff\x1f", b"\x80\x80\x80\x80\x80\x01", b"\xff\xff\xff\xff\xff"])
def test_too_large_uvarint(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        primitives.read_uvarint(data, 0)


def test_more_bytes_are_needed_until_the_size_is_there() -> None:
    frame = bytes(codec.encode_request(3, 12, 1, "c", {"Topics": []}))
    for have in range(4):
        assert codec.frame_size(frame[:have]) is None
    for have in range(4, len(frame)):
        assert codec.frame_size(frame[:have]) == len(frame)
    assert codec.frame_size(frame + b"next") == len(frame)
    assert codec.frame_size(b"junk" + frame, 4) == len(frame)
    assert codec.frame_size(b"junk" + frame, 4, 6) is None


def test_headers() -> None:
    assert not codec.has_flexible_header(codec.API_VERSIONS, 4)
    assert codec.has_flexible_header(3, 9)
    # Flexible request headers keep the client id a classic string.
    frame = codec.encode_request(3, 12, 5, "me", {"Topics": []})
    assert frame[4:] == struct.pack(">hhih", 3, 12, 5, 2) + b"me" + b"\0" + b"\x01\x01\x00\x00"
    assert codec.read_header(codec.encode_request(3, 1, 5, None, {"Topics": []})).client_id is None
    tagged = frame[:16] + b"\x01\x05\x02hi" + frame[17:]
    assert codec.decode_request(3, 12, tagged, codec.read_header(tagged).body_at)["Topics"] == []
    for key, version in ((3, 14), (999, 0)):
        with pytest.raises(RemoteProtocolError, match="not served"):
            codec.read_header(struct.pack(">ihhih", 10, key, version, 1, -1))
    with pytest.raises(RemoteProtocolError, match="too short"):
        codec.read_fixed_header(b"\0\0\0\4abcd")


def test_unknown_tagged_fields_are_skipped() -> None:
    plain = codec.encode_request(12, 4, 1, None, {"GroupId": "g", "MemberId": "m"})
    body = bytes(plain[15:])
    assert body[-1] == 0
    tagged = body[:-1] + b"\x02\x07\x03abc\x09\x00"
    assert codec.decode_request(12, 4, tagged) == codec.decode_request(12, 4, body)


def test_our_own_mistakes_are_local_errors() -> None:
    with pytest.raises(LocalProtocolError, match="Nonsense"):
        codec.encode_response(12, 0, 1, {"Nonsense": 1})
    with pytest.raises(LocalProtocolError):
        codec.encode_response(12, 0, 1, {"ErrorCode": 2**40})
    with pytest.raises(LocalProtocolError, match="null"):
        codec.encode_response(11, 6, 1, {"ProtocolName": None})


def test_error_codes_are_kafkas() -> None:
    for code in ErrorCode:
        assert KioErrorCode(code.value).name.upper() == code.name


def _errors_of(kind: type[errors.GridwireError]) -> list[type[errors.GridwireError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in _errors_of(below))]


def test_every_error_of_ours_has_a_code() -> None:
    ours = {kind for kind in _errors_of(errors.GridwireError) if kind.__module__ == errors.__name__}
    unmapped = {kind for kind in ours if code_of(kind("x")) is ErrorCode.UNKNOWN_SERVER_ERROR}
    of_other_heads = {errors.SchemaGroupExists, errors.UnknownSchema, errors.IncompatibleSchema}
    of_other_heads |= {errors.UnknownApp, errors.InvalidApp}
    of_other_heads |= {errors.UnknownRoute, errors.RouteExists, errors.UnknownRule, errors.RuleExists}
    assert unmapped == {errors.GridwireError, errors.LocalProtocolError} | of_other_heads
    assert code_of(errors.InvalidBatch("x")) is ErrorCode.CORRUPT_MESSAGE
    assert code_of(errors.DiskFull("x")) is ErrorCode.KAFKA_STORAGE_ERROR
    assert code_of(ValueError("x")) is ErrorCode.UNKNOWN_SERVER_ERROR
    assert coordinator_code_of(errors.Unavailable("x")) is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert coordinator_code_of(errors.InvalidName("x")) is ErrorCode.INVALID_GROUP_ID
    for group_error in GroupError:
        assert code_of_group(group_error) == ErrorCode[group_error.name]


def test_everything_advertised_is_handled_and_listed() -> None:
    assert set(HANDLERS) | {codec.PRODUCE} == set(codec.APIS)
    rows = {row.key: row for row in ledger()}
    assert set(rows) == set(codec.APIS)
    assert rows[codec.PRODUCE].versions == (0, 13)
    assert rows[codec.FETCH].gaps
    assert not set(NOT_SERVED) & set(codec.APIS)


def test_ids_and_nulls_of_a_body() -> None:
    topic = UUID(int=77)
    body = {"Topics": [{"TopicId": topic, "Name": None}]}
    frame = codec.encode_request(3, 12, 1, None, body)
    assert codec.decode_request(3, 12, frame, codec.read_header(frame).body_at)["Topics"] == body["Topics"]
    with pytest.raises(LocalProtocolError):
        codec.encode_request(3, 9, 1, None, {"Topics": [{"Name": None}]})
