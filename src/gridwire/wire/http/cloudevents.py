"""CloudEvents 1.0 over HTTP, kept as the Kafka binding's binary mode keeps them.

Three ways in: structured (one JSON object), batched (a JSON array of them), binary (`ce-*` headers, the body
is the data). One way kept: value = the data bytes, `content-type` = datacontenttype, every other attribute a
header `ce_NAME`, key = `partitionkey` else `subject`. A Kafka client with a CloudEvents SDK reads what was sent.

Source: CloudEvents 1.0.2, its JSON event format, HTTP and Kafka protocol bindings; the partitioning extension.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from gridwire.core.batch import Event, Headers
from gridwire.wire.http.problems import BadBody

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
HEADER_PREFIX: Final = b"ce-"

REQUIRED: Final = ("specversion", "id", "source", "type")
DATA_MEMBERS: Final = ("data", "data_base64")
SPEC_VERSION: Final = "1.0"

_NAME = re.compile(r"[a-z0-9]{1,20}\Z")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_JSON_TYPE = re.compile(r"(application|text)/json\Z|[^/]+/[^/]+\+json\Z")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])

Attributes = dict[str, str]
Members = dict[str, msgspec.Raw]
_T = TypeVar("_T")


def time_ms(text: str) -> int | None:
    """Milliseconds since the epoch of an RFC 3339 time; None when it is none, or lies before 1970."""
    if not _RFC3339.match(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        milliseconds = (moment - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        return None
    return milliseconds if milliseconds >= 0 else None


def is_json_type(content_type: str) -> bool:
    """Whether a media type declares JSON: application/json, text/json, or anything with a +json suffix."""
    return bool(_JSON_TYPE.match(content_type.partition(";")[0].strip().lower()))


def from_structured(body: bytes, now_ms: int) -> Event:
    """One event in JSON event format. Raises BadBody."""
    return _from_members(_decoded(_OBJECT, body, "one JSON object"), now_ms, "")


def from_batch(body: bytes, now_ms: int) -> list[Event]:
    """A JSON array of events; errors name the index. Raises BadBody."""
    events = _decoded(_ARRAY, body, "a JSON array of objects")
    return [_from_members(members, now_ms, f"event {index}: ") for index, members in enumerate(events)]


def from_headers(headers: Iterable[tuple[bytes, bytes]], content_type: str, body: bytes, now_ms: int) -> Event:
    """One event in binary mode, from request headers with lower-case names. Raises BadBody."""
    attributes: Attributes = {}
    for raw_name, raw_value in headers:
        if not raw_name.startswith(HEADER_PREFIX):
            continue
        name = raw_name[len(HEADER_PREFIX) :].decode("latin-1")
        if name in attributes:
            raise BadBody(f"CloudEvents header ce-{name} comes twice")
        if name == "datacontenttype" or name in DATA_MEMBERS:
            raise BadBody(f"CloudEvents header ce-{name} is not allowed in binary mode: use content-type and the body")
        attributes[name] = _header_text(name, raw_value)
    return _event(attributes, content_type or None, body or None, now_ms, "")


def _decoded(decoder: msgspec.json.Decoder[_T], body: bytes, what: str) -> _T:
    try:
        body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8: byte {error.start}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"the body is not {what}: {error}") from None


def _header_text(name: str, raw: bytes) -> str:
    """A header value as the HTTP binding writes it: percent-encoded UTF-8, maybe quoted (section 3.1.3.2)."""
    if len(raw) >= 2 and raw[:1] == raw[-1:] == b'"':
        raw = re.sub(rb"\\(.)", rb"\1", raw[1:-1])
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise BadBody(f"CloudEvents header ce-{name} is not percent-encoded UTF-8") from None


def _from_members(members: Members, now_ms: int, where: str) -> Event:
    """An event from the members of its JSON object; null is the same as absent for an attribute."""
    attributes = {
        name: text
        for name, raw in members.items()
        if name not in DATA_MEMBERS and (text := _attribute_text(name, raw, where)) is not None
    }
    content_type = attributes.pop("datacontenttype", None)
    data = _data(members, content_type, where)
    if content_type is None and "data" in members:
        content_type = "application/json"  # the JSON format implies it; once out of the format it has to be said
    return _event(attributes, content_type, data, now_ms, where)


def _attribute_text(name: str, raw: msgspec.Raw, where: str) -> str | None:
    """Canonical string of an attribute (CloudEvents section 3.1): booleans and 32-bit integers have one."""
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"{where}CloudEvents attribute {name!r} is malformed: {error}") from None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return str(value)
    raise BadBody(f"{where}CloudEvents attribute {name!r} must be a string, a boolean or a 32-bit integer")


def _data(members: Members, content_type: str | None, where: str) -> bytes | None:
    """The data bytes: verbatim JSON, the text of a JSON string of another media type, or decoded base64."""
    if "data_base64" in members:
        if "data" in members:
            raise BadBody(f"{where}a CloudEvent has either data or data_base64, not both")
        return _base64(bytes(members["data_base64"]), where)
    if "data" not in members:
        return None
    data = bytes(members["data"])
    if content_type is not None and not is_json_type(content_type) and data.startswith(b'"'):
        try:
            return msgspec.json.decode(data, type=str).encode()
        except ValueError as error:
            raise BadBody(f"{where}the string in data is malformed: {error}") from None
    return data


def _base64(raw: bytes, where: str) -> bytes:
    try:
        return base64.b64decode(msgspec.json.decode(raw, type=str), validate=True)
    except ValueError as error:
        raise BadBody(f"{where}data_base64 is not a base64 string: {error}") from None


def _event(attributes: Attributes, content_type: str | None, data: bytes | None, now_ms: int, where: str) -> Event:
    """Check the attributes and lay them out as the Kafka binding does."""
    for name, value in attributes.items():
        if not _NAME.match(name):
            raise BadBody(f"{where}CloudEvents attribute {name[:40]!r} is not allowed: 1 to 20 of a-z and 0-9")
        if _CONTROL.search(value):
            raise BadBody(f"{where}CloudEvents attribute {name!r} holds a control character")
    for name in REQUIRED:
        if not attributes.get(name):
            raise BadBody(f"{where}CloudEvents attribute {name!r} is required and must not be empty")
    if attributes["specversion"] != SPEC_VERSION:
        raise BadBody(f"{where}CloudEvents specversion {attributes['specversion'][:20]!r} is not served: send '1.0'")
    headers: Headers = tuple((f"ce_{name}", value.encode()) for name, value in attributes.items())
    if content_type is not None:
        headers = (("content-type", content_type.encode()), *headers)
    key = attributes.get("partitionkey") or attributes.get("subject")
    timestamp = time_ms(attributes.get("time", ""))
    return Event(data, key.encode() if key else None, headers, now_ms if timestamp is None else timestamp)
