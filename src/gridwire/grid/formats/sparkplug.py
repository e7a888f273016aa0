"""Sparkplug B: the messages of edge nodes, as a subscriber to `spBv1.0/#` writes them down, one a line.

    spBv1.0/plant/NBIRTH/edge 08b8d0...                                    topic, payload as hex
    {"topic":"spBv1.0/plant/DDATA/edge/meter-7","payload":"CIjK...","tst":"2026-01-01T00:00:00Z"}   base64 or hex

A birth (NBIRTH, DBIRTH) names every metric with its alias and type; data messages (NDATA, DDATA) may carry the alias
alone. A node's birth ends all that was known of it, so messages are read in their order, and data whose alias no birth
has named goes to quarantine, with the birth in front of it when there is one. The meter is the device, else the edge
node. What is measured is the metric's last part (alias, CIM or OBIS code); the properties `engUnit`, `Quality` and
`interval_s` say more. Metrics that are no known quantity are passed over where a message has others that are.
A death (NDEATH, DDEATH) is COMM_LOST, the birth after it COMM_RESTORED.

Source: Eclipse Sparkplug 3.0.0, topics in chapter 4, payload schema in chapter 6.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final

from gridwire.grid.formats import units
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Unusable, items
from gridwire.grid.formats.protobuf import encoded, fields
from gridwire.grid.formats.rows import lines
from gridwire.grid.meter_event import MeterEvent
from gridwire.grid.reading import Reading, timestamp_us, value_parts
from gridwire.grid.reading_types import Accumulation, ReadingType, find

NODES_MAX: Final = 10_000
"""Edge nodes and devices whose births are remembered; the oldest go first."""

METRICS_MAX: Final = 20_000
"""Metrics of one message."""

LINE_BYTES_MAX: Final = 1024 * 1024
"""Longest line: births of large nodes are long."""

BIRTH_BYTES_MAX: Final = 64 * 1024
"""Longest birth that is put in front of quarantined data."""

_NAME, _ALIAS, _TIMESTAMP, _DATATYPE, _IS_NULL, _PROPERTIES = 1, 2, 3, 4, 7, 9
_INT, _LONG, _FLOAT, _DOUBLE, _BOOLEAN, _STRING = 10, 11, 12, 13, 14, 15
_NAMING: Final = frozenset({_NAME, _ALIAS, _DATATYPE, _PROPERTIES})
_PAYLOAD_TIMESTAMP, _PAYLOAD_METRICS = 1, 2
_SIGNED_BITS: Final = {1: 8, 2: 16, 3: 32, 4: 64}
"""Int8 to Int64 by their number; they travel as unsigned two's complement."""

_TOPIC: Final = re.compile(r"spBv1\.0/([^/]+)/([ND])(BIRTH|DEATH|DATA)/([^/]+)(?:/([^/]+))?\Z")
_TEXT_LINE: Final = re.compile(rb"(\S+)\s+([0-9A-Fa-f]*)\s*\Z")
_QUALITY_BAD, _QUALITY_STALE = 0, 500


@dataclass(slots=True)
class _Metric:
    """One metric of a message. `value`: a number, or None when it is none."""

    name: str = ""
    alias: int | None = None
    datatype: int = 0
    timestamp_ms: int | None = None
    value: Decimal | None = None
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """What an edge node or device said of itself at birth. `line`: the same without values, as a line of a file."""

    line: bytes = b""
    metrics: dict[int | str, _Metric] = field(default_factory=dict)
    lost: bool = False


class _Edge:
    """What is known of all nodes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._nodes: dict[tuple[str, str, str], _Node] = {}

    def item(self, line: bytes, position: int) -> Decoded | None:
        """A message as readings and events; None for one that carries none. Raises Unusable."""
        topic, payload, received_us = _message(line, self._context.received_at_us)
        match = _TOPIC.match(topic)
        if match is None:
            if topic.startswith(("spBv1.0/STATE/", "STATE/")) or re.match(r"spBv1\.0/[^/]+/[ND]CMD/", topic):
                return None  # of host applications, not of meters
            raise Unusable(f"{topic[:80]!r} is no Sparkplug B topic of a node or device")
        group, level, verb, node, device = match.groups()
        if (level == "D") != bool(device):
            raise Unusable(f"{topic[:80]!r} names {'no device' if level == 'D' else 'a device'}")
        place, meter = (group, node, device or ""), device or node
        sent_ms, metrics = _payload(payload)
        at_us = received_us if received_us is not None else sent_ms * 1000 if sent_ms is not None else None
        if verb == "DEATH":
            return self._death(place, meter, at_us, position)
        events = self._birth(place, _without_values(topic, payload), metrics, meter, at_us) if verb == "BIRTH" else ()
        readings = tuple(self._readings(place, metrics, sent_ms, meter, strict=verb == "DATA"))
        return Decoded(readings, position, events=events) if readings or events else None

    def birth_of(self, line: bytes) -> bytes:
        """The lines without which a data message means nothing."""
        try:
            topic, _, _ = _message(line, None)
        except Unusable:
            return b""
        match = _TOPIC.match(topic)
        if match is None or match[3] != "DATA":
            return b""
        births = [self._nodes.get((match[1], match[4], device)) for device in dict.fromkeys(("", match[5] or ""))]
        found = b"".join(node.line + b"\n" for node in births if node is not None and node.line)
        return found if len(found) <= BIRTH_BYTES_MAX else b""

    def _birth(
        self, place: tuple[str, str, str], line: bytes, metrics: list[_Metric], meter: str, at_us: int | None
    ) -> tuple[MeterEvent, ...]:
        before = self._nodes.pop(place, None)
        if not place[2]:  # a node's birth ends its devices
            for other in [known for known in self._nodes if known[:2] == place[:2]]:
                self._nodes[other] = _Node(lost=self._nodes[other].lost)
        while len(self._nodes) >= NODES_MAX:
            del self._nodes[next(iter(self._nodes))]
        named = [replace(metric, value=None) for metric in metrics]
        known = {key: metric for metric in named for key in (metric.name, metric.alias) if key not in ("", None)}
        self._nodes[place] = _Node(line, known)
        if before is not None and before.lost and at_us is not None:
            return (MeterEvent(at_us, "COMM_RESTORED", meter, source=self._context.source),)
        return ()

    def _death(self, place: tuple[str, str, str], meter: str, at_us: int | None, position: int) -> Decoded | None:
        if at_us is None:
            raise Unusable("a death without a time: give the time of receipt")
        node = self._nodes.setdefault(place, _Node())
        node.lost = True
        return Decoded((), position, events=(MeterEvent(at_us, "COMM_LOST", meter, source=self._context.source),))

    def _readings(
        self, place: tuple[str, str, str], metrics: list[_Metric], sent_ms: int | None, meter: str, *, strict: bool
    ) -> Iterator[Reading]:
        """Raises Unusable in a data message that has numbers and none that is a known quantity."""
        unknown, found = "", 0
        for metric in (self._named(place, metric) for metric in metrics):
            if metric.value is None:
                continue
            kind = find(metric.name.rpartition("/")[2]) or find(metric.name)
            if kind is None:
                unknown = unknown or metric.name
                continue
            found += 1
            yield _reading(metric, kind, sent_ms, meter, self._context)
        if strict and unknown and not found:
            raise Unusable(f"{unknown[-60:]!r} names no known reading type, and there is no other metric")

    def _named(self, place: tuple[str, str, str], metric: _Metric) -> _Metric:
        """The metric with what its birth said of it. Raises Unusable when it has an alias that nobody named."""
        key = metric.name if metric.alias is None else metric.alias
        for owner in (place, (*place[:2], "")):  # aliases are unique under an edge node
            born = self._nodes[owner].metrics.get(key) if owner in self._nodes else None
            if born is not None:
                return replace(
                    metric,
                    name=metric.name or born.name,
                    value=metric.value if metric.datatype else _signed(metric.value, born.datatype),
                    properties=born.properties | metric.properties,
                )
        if not metric.name:
            raise Unusable(f"no birth has named alias {metric.alias}")
        return metric


def _reading(metric: _Metric, kind: ReadingType, sent_ms: int | None, meter: str, context: Context) -> Reading:
    assert metric.value is not None
    ts_ms = metric.timestamp_ms if metric.timestamp_ms is not None else sent_ms
    if ts_ms is None and context.received_at_us is None:
        raise Unusable(f"{metric.name[-60:]!r} has no time: give the time of receipt")
    ts_us = ts_ms * 1000 if ts_ms is not None else context.received_at_us
    if ts_us is None or not 0 <= ts_us < 2**53:
        raise Unusable("a time outside of any calendar")
    try:
        value, scale = value_parts(metric.value)
    except ValueError as error:
        raise Unusable(str(error)[:80]) from None
    interval_s = 0
    if kind.accumulation is Accumulation.INTERVAL:
        interval_s = int(metric.properties.get("interval_s", 0))
        if interval_s <= 0:
            raise Unusable(f"{metric.name[-60:]!r}: energy of an interval without the property interval_s")
    quality = int(metric.properties.get("Quality", 192))
    code = {_QUALITY_BAD: "5.10.0", _QUALITY_STALE: "5.10.0"}.get(quality, "")
    unit = str(metric.properties.get("engUnit", ""))
    return units.reading(kind, value, scale, unit, ts_us, context.meter or meter, context, interval_s, code)


# -- the bytes ----------------------------------------------------------------------------------------------------


def _message(line: bytes, received_us: int | None) -> tuple[str, bytes, int | None]:
    """(topic, payload, received at) of a line. Raises Unusable."""
    if not line.lstrip().startswith(b"{"):
        match = _TEXT_LINE.match(line)
        if match is None or len(match[2]) % 2:
            raise Unusable("a line must be a topic and a payload in hex, or a JSON object with topic and payload")
        return match[1].decode("utf-8", "replace"), bytes.fromhex(match[2].decode()), received_us
    try:
        told = json.loads(line)
        topic, payload, at = told["topic"], told["payload"], told.get("tst")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unusable("no JSON object with topic and payload") from None
    if not isinstance(topic, str) or not isinstance(payload, str):
        raise Unusable("topic and payload must be texts")
    return topic, _binary(payload), _received(at, received_us)


def _binary(text: str) -> bytes:
    if re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", text):
        return bytes.fromhex(text)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Unusable("payload is neither hex nor base64") from None


def _received(text: Any, default_us: int | None) -> int | None:
    if not isinstance(text, str):
        return default_us
    try:
        return timestamp_us(datetime.fromisoformat(text))
    except ValueError:
        return default_us


def _payload(data: bytes) -> tuple[int | None, list[_Metric]]:
    """(timestamp in milliseconds, metrics)."""
    sent_ms: int | None = None
    metrics: list[_Metric] = []
    for number, value in fields(data):
        if number == _PAYLOAD_TIMESTAMP and isinstance(value, int):
            sent_ms = value
        elif number == _PAYLOAD_METRICS and isinstance(value, bytes):
            metrics.append(_metric(value))
            if len(metrics) > METRICS_MAX:
                raise Unusable(f"more than {METRICS_MAX} metrics")
    return sent_ms, metrics


def _without_values(topic: str, payload: bytes) -> bytes:
    """A birth that names its metrics and measures nothing, so that it may be read again."""
    metrics = (value for number, value in fields(payload) if number == _PAYLOAD_METRICS and isinstance(value, bytes))
    kept = (encoded(field for field in fields(metric) if field[0] in _NAMING) for metric in metrics)
    return f"{topic} {encoded((_PAYLOAD_METRICS, metric) for metric in kept).hex()}".encode()


def _metric(data: bytes) -> _Metric:
    metric = _Metric()
    null = False
    raw: tuple[int, int | bytes] | None = None
    for number, value in fields(data):
        if number == _NAME and isinstance(value, bytes):
            metric.name = _text(value)
        elif number == _ALIAS and isinstance(value, int):
            metric.alias = value
        elif number == _TIMESTAMP and isinstance(value, int):
            metric.timestamp_ms = value
        elif number == _DATATYPE and isinstance(value, int):
            metric.datatype = value
        elif number == _IS_NULL:
            null = bool(value)
        elif number == _PROPERTIES and isinstance(value, bytes):
            metric.properties = _properties(value)
        elif _INT <= number <= _STRING:
            raw = number, value
    if raw is not None and not null:
        metric.value = _signed(_number(*raw), metric.datatype)
    return metric


def _number(number: int, value: int | bytes) -> Decimal | None:
    """The number in a value field of a metric; None for texts, truth values and what is no number."""
    if number in (_INT, _LONG) and isinstance(value, int):
        return Decimal(value)
    if number == _FLOAT and isinstance(value, bytes) and len(value) == 4:
        return _shortest(value)
    if number == _DOUBLE and isinstance(value, bytes) and len(value) == 8:
        found = Decimal(repr(struct.unpack("<d", value)[0]))
        return found if found.is_finite() else None
    return None


def _shortest(raw: bytes) -> Decimal | None:
    """The decimal with the fewest digits that is this float: 230.1, not 230.10000610351562."""
    number = struct.unpack("<f", raw)[0]
    for digits in range(1, 10):
        text = f"{number:.{digits}g}"
        if struct.pack("<f", float(text)) == raw:
            found = Decimal(text)
            return found if found.is_finite() else None
    return None


def _signed(value: Decimal | None, datatype: int) -> Decimal | None:
    bits = _SIGNED_BITS.get(datatype)
    if value is None or bits is None or value < 0 or value != int(value):
        return value
    # A sender may extend the sign to the field's 32 or 64 bits or leave it at the type's own.
    plain = int(value) & (2**bits - 1)
    return Decimal(plain - 2**bits if plain >= 2 ** (bits - 1) else plain)


def _properties(data: bytes) -> dict[str, Any]:
    """A property set: names, then values, in the same order. Values that are no text and no number are left out."""
    names: list[str] = []
    values: list[Any] = []
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            names.append(_text(value))
        elif number == 2 and isinstance(value, bytes):
            values.append(_property(value))
    return {name: value for name, value in zip(names, values, strict=False) if value is not None}


def _property(data: bytes) -> Any:
    for number, value in fields(data):
        if number in (3, 4) and isinstance(value, int):
            return value if value < 2**31 else None
        if number == 8 and isinstance(value, bytes):
            return _text(value)
    return None


def _text(raw: bytes) -> str:
    return raw[:512].decode("utf-8", "replace")


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode lines of topics and payloads; see `base.Format.stream`."""
    edge = _Edge(context)
    for line, position in lines(chunks, LINE_BYTES_MAX):
        reason = f"line is longer than {LINE_BYTES_MAX} bytes" if len(line) > LINE_BYTES_MAX else ""
        if line.strip():
            yield from items([(line, position, line, reason)], edge.item, partial(edge.birth_of, line))


FORMAT: Final = Format(
    "sparkplug", "Sparkplug B messages, one a line with their topic", ("*.sparkplug", "*.spb"), stream,
    "Eclipse Sparkplug 3.0.0",
    "aliases without datatype (taken from the birth), signs extended or not, floats as the shortest decimal, missing "
    "metric timestamps (the payload's), lines of mosquitto_sub -F '%t %x' or JSON with base64 or hex",
    "pysparkplug 0.6.1 (encodes what is decoded)",
)  # fmt: skip
"""The format as the registry lists it."""
