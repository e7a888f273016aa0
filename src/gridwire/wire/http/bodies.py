"""Request bodies to events. Every event's value is the very bytes that came, never a re-serialised copy.

content type                          events
application/json                      an array: one an element; anything else: one
application/x-ndjson, .../jsonl       one a line, blank lines skipped
application/cloudevents+json          one (CloudEvents structured mode)
application/cloudevents-batch+json    one an element
application/vnd.gridwire.batch        the events of one record batch, keys, headers and times included
anything with ce-* headers            one (CloudEvents binary mode)
anything else                         one: the raw body
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from gridwire.core.batch import Event, Headers, check_produced, decode
from gridwire.core.errors import InvalidBatch, MessageTooLarge
from gridwire.core.limits import EVENT_BYTES_MAX
from gridwire.wire.http import cloudevents
from gridwire.wire.http.problems import BadBody

JSON: Final = frozenset({"application/json", "text/json"})
NDJSON: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines"})

BATCH: Final = "application/vnd.gridwire.batch"
"""A Kafka v2 record batch: the only body whose events bring keys and headers of their own without being CloudEvents."""

UNTOLD_TYPES: Final = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Types a client sends when nobody chose one (curl -d); they are not kept with the event."""

BLOCK_EVENTS: Final = 1024
"""Events handed over at once; the head lets other requests run between two blocks."""

KEY_FIELD_CHARS_MAX: Final = 128
"""Longest name of a key field."""

_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a body turned out to hold. `several`: its form can hold many events, so the answer lists them."""

    blocks: Iterator[Sequence[Event]]
    several: bool


def parse(
    content_type: str,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    now_ms: int,
    key: bytes | None = None,
    key_field: str | None = None,
) -> Parsed:
    """Turn a request into events; `now_ms` stamps those that bring no time of their own.

    Args:
        headers: request headers with lower-case names, for binary CloudEvents.
        key: key of every event that `key_field` finds none in; it goes before a CloudEvent's own.
        key_field: name of the member of each JSON object that holds its key.

    Raises:
        BadBody, MessageTooLarge: now, or while the blocks are iterated.
    """
    media = content_type.partition(";")[0].strip().lower()
    one = _cloudevents(media, content_type, headers, body, now_ms)
    if one is not None:
        if key_field is not None:
            raise BadBody("key_field works with JSON bodies: a CloudEvent is keyed by partitionkey or subject")
        events, several = one
        return Parsed(iter([[_checked(event, key) for event in events]]), several)
    if not body:
        raise BadBody("the body is empty: send at least one event")
    if media == BATCH:
        return Parsed(_batch(body, now_ms), True)
    key_of = _key_reader(key_field)
    if media in NDJSON:
        return Parsed(_ndjson(body, now_ms, key, key_of), True)
    if media in JSON:
        return _json(body, now_ms, key, key_of)
    if key_field is not None:
        raise BadBody("key_field works with JSON bodies: send content-type application/json or application/x-ndjson")
    kept: Headers = () if media in UNTOLD_TYPES else (("content-type", content_type.encode()),)
    return Parsed(iter([[_checked(Event(body, None, kept, now_ms), key)]]), False)


def _cloudevents(
    media: str, content_type: str, headers: Iterable[tuple[bytes, bytes]], body: bytes, now_ms: int
) -> tuple[list[Event], bool] | None:
    if media == cloudevents.STRUCTURED:
        return [cloudevents.from_structured(body, now_ms)], False
    if media == cloudevents.BATCHED:
        events = cloudevents.from_batch(body, now_ms)
        if not events:
            raise BadBody("the batch is empty: send at least one event")
        return events, True
    if media.startswith("application/cloudevents"):
        raise BadBody(f"CloudEvents as {media[:80]} are not served: send {cloudevents.STRUCTURED} or ce-* headers")
    headers = [pair for pair in headers if pair[0].startswith(cloudevents.HEADER_PREFIX)]
    if headers:
        return [cloudevents.from_headers(headers, content_type, body, now_ms)], False
    return None


def _checked(event: Event, key: bytes | None) -> Event:
    """The event under the request's key, if it has one, and within the size limit."""
    check_size(event.value or b"", "the event")
    if key is None:
        return event
    return Event(event.value, key, event.headers, event.timestamp)


def check_size(value: bytes, what: str) -> None:
    """Raises MessageTooLarge when one event's value is above its limit."""
    if len(value) > EVENT_BYTES_MAX:
        raise MessageTooLarge(f"{what} has {len(value)} bytes; one event may have {EVENT_BYTES_MAX}")


def _batch(body: bytes, now_ms: int) -> Iterator[list[Event]]:
    """The events of one record batch. Offsets and producer are the log's business, not the sender's."""
    try:
        headers = check_produced(body)
        if len(headers) != 1:
            raise BadBody(f"the body holds {len(headers)} record batches: send one a request")
        block: list[Event] = []
        for event in decode(body):
            check_size(event.value or b"", "an event of the batch")
            block.append(event if event.timestamp > 0 else msgspec.structs.replace(event, timestamp=now_ms))
            if len(block) == BLOCK_EVENTS:
                yield block
                block = []
        yield block
    except InvalidBatch as error:
        raise BadBody(str(error)) from None


def _json(body: bytes, now_ms: int, key: bytes | None, key_of: KeyReader | None) -> Parsed:
    check_utf8(body)
    try:
        if body.lstrip(b" \t\r\n").startswith(b"["):
            elements = _ARRAY.decode(body)
            if not elements:
                raise BadBody("the array is empty: send at least one event")
            return Parsed(_elements(elements, now_ms, key, key_of), True)
        _RAW.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"the body is not JSON: {error}") from None
    check_size(body, "the event")
    own = key_of(body, "the event") if key_of else None
    return Parsed(iter([[Event(body.strip(b" \t\r\n"), own or key, (), now_ms)]]), False)


def _elements(
    elements: list[msgspec.Raw], now_ms: int, key: bytes | None, key_of: KeyReader | None
) -> Iterator[list[Event]]:
    for start in range(0, len(elements), BLOCK_EVENTS):
        block = []
        for index, raw in enumerate(elements[start : start + BLOCK_EVENTS], start):
            value = bytes(raw)
            if len(value) > EVENT_BYTES_MAX:
                check_size(value, f"element {index}")
            own = key_of(value, f"element {index}") if key_of else None
            block.append(Event(value, own or key, (), now_ms))
        yield block


def _ndjson(body: bytes, now_ms: int, key: bytes | None, key_of: KeyReader | None) -> Iterator[list[Event]]:
    check_utf8(body)
    block: list[Event] = []
    found = False
    for number, line in enumerate(body.split(b"\n"), 1):
        value = line.strip(b" \t\r")
        if not value:
            continue
        found = True
        block.append(_line(value, number, now_ms, key, key_of))
        if len(block) == BLOCK_EVENTS:
            yield block
            block = []
    if not found:
        raise BadBody("the body has only blank lines: send at least one event")
    if block:
        yield block


def _line(value: bytes, number: int, now_ms: int, key: bytes | None, key_of: KeyReader | None) -> Event:
    if len(value) > EVENT_BYTES_MAX:
        check_size(value, f"line {number}")
    if key_of is not None:  # it parses the line too
        return Event(value, key_of(value, f"line {number}") or key, (), now_ms)
    try:
        _RAW.decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadBody(f"line {number} is not JSON: {error}") from None
    return Event(value, key, (), now_ms)


def check_utf8(body: bytes) -> None:
    """Raises BadBody: JSON is UTF-8, and the parser that slices values does not look inside their strings."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8: byte {error.start}") from None


KeyReader = Callable[[bytes, str], bytes | None]
"""(JSON value, what to call it in an error) to its key, or None when the field is absent or null."""


def _key_reader(field: str | None) -> KeyReader | None:
    if field is None:
        return None
    plain = field.isprintable() and '"' not in field and "\\" not in field
    if not 0 < len(field) <= KEY_FIELD_CHARS_MAX or not plain:
        raise BadBody(
            f"key_field must be the name of a JSON member, at most {KEY_FIELD_CHARS_MAX} characters, "
            "without quotes and backslashes"
        )
    return _key_reader_of(field)


@lru_cache(64)
def _key_reader_of(field: str) -> KeyReader:
    """A reader that decodes one member; the struct behind it is built once a field name."""
    shape = msgspec.defstruct("Keyed", [("key", str | int | float | bool | None, None)], rename={"key": field})
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(shape)
    numbers = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def read(value: bytes, what: str) -> bytes | None:
        try:
            key = decoder.decode(value).key
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BadBody(f"{what} cannot be keyed by {field!r}: {error}") from None
        if key is None or isinstance(key, str):
            return key.encode() if key else None
        return bytes(numbers.decode(value)[field])  # 1.50 stays 1.50

    return read
