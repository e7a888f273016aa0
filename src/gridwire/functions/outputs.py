"""What user code hands out, as events: `Out.set`, return values, blobs.

The package's own converters are passed by: they refuse lists of bytes and everything for Kafka.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gridwire.functions.model import Output, Published

_PLACE = re.compile(r"\{([^{}]+)\}")


class Out:
    """What a `func.Out` parameter is given."""

    def __init__(self) -> None:
        self._value: Any = None

    def set(self, val: Any) -> None:
        """Take the value."""
        self._value = val

    def get(self) -> Any:
        """The value, if there is one."""
        return self._value


class Outbox:
    """Events of one call, by hub, in the order they were handed out."""

    def __init__(self, blobs: Path, trace: tuple[str, str]) -> None:
        self._blobs = blobs
        self._hubs: dict[str, Published] = {}
        self._trace: list[tuple[str, bytes]] = []
        self.carry_on(trace)

    def carry_on(self, trace: tuple[str, str]) -> None:
        """What is put from now on belongs to this span; to none if it is empty."""
        self._trace = [
            (name, text.encode()) for name, text in zip(("traceparent", "tracestate"), trace, strict=True) if text
        ]

    def put(self, binding: Output, value: Any, names: Mapping[str, Any]) -> None:
        """Take what was handed out for one binding. Raises TypeError: nothing an event can be made of."""
        if value is None:
            return
        if binding.kind == "blob":
            write_blob(self._blobs, binding.target, value, names)
            return
        published = self._hubs.setdefault(binding.target, Published(binding.target, [], [], []))
        if _is_columns(value):
            from gridwire.functions.arrow import rows_to_json

            value = rows_to_json(value)
        elif isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
            value = [value]
        for item in value:
            for one in _elements(item):
                self._add(published, binding.kind, one)

    def _add(self, published: Published, kind: str, item: Any) -> None:
        whole = _kafka_event(item) if kind == "kafka" else None
        if whole is not None:
            published.values.append(encoded(whole.get("Value") or ""))
            published.keys.append(_key(whole.get("Key")))
            published.headers.append([*_kafka_headers(whole), *self._trace])
            return
        published.values.append(encoded(item))
        published.keys.append(_key(getattr(item, "partition_key", None) or getattr(item, "key", None)))
        published.headers.append(self._trace)

    def published(self) -> list[Published]:
        """Everything taken; keys and headers only where there are some."""
        return [
            Published(
                each.hub, each.values,
                each.keys if any(key is not None for key in each.keys) else [],
                each.headers if any(each.headers) else [],
            )
            for each in self._hubs.values()
            if each.values
        ]  # fmt: skip


def _key(key: Any) -> bytes | None:
    return key.encode() if isinstance(key, str) else None


def _elements(item: Any) -> list[Any]:
    """A text that is a JSON array is an event for each element: so Azure's host reads what Python hands out."""
    if not isinstance(item, str) or not item.lstrip().startswith("["):
        return [item]
    try:
        return list(json.loads(item))
    except ValueError:
        return [item]


_KAFKA_PARTS = frozenset(("Offset", "Partition", "Topic", "Timestamp", "Value", "Headers"))
"""A Kafka output that is an object of all of these is a whole event: value, key and headers (the rest is not ours to
choose), as Azure's Kafka extension reads it."""


def _kafka_event(item: Any) -> Mapping[str, Any] | None:
    if isinstance(item, str) and item.lstrip().startswith("{"):
        try:
            item = json.loads(item)
        except ValueError:
            return None
    return item if isinstance(item, Mapping) and item.keys() >= _KAFKA_PARTS else None


def _kafka_headers(whole: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """Headers of a whole event. Raises TypeError."""
    headers = whole.get("Headers") or []
    if not isinstance(headers, list) or not all(isinstance(each, Mapping) and "Key" in each for each in headers):
        raise TypeError('Headers of a Kafka output must be a list of {"Key": ..., "Value": ...}')
    return [(str(each["Key"]), encoded(each.get("Value") or "")) for each in headers]


def encoded(value: Any) -> bytes:
    """One event's value. Raises TypeError."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "get_body"):
        return bytes(value.get_body())
    if hasattr(value, "event_type") and hasattr(value, "get_json"):
        return json.dumps(_event_grid(value), default=str).encode()
    if isinstance(value, Mapping | list | tuple | int | float | bool):
        return json.dumps(value, separators=(",", ":"), default=str).encode()
    raise TypeError(f"an output must be text, bytes, JSON or a list of those, not {type(value).__name__}")


def _event_grid(event: Any) -> dict[str, Any]:
    moment = event.event_time
    return {
        "id": event.id,
        "subject": event.subject,
        "dataVersion": event.data_version,
        "eventType": event.event_type,
        "data": event.get_json(),
        "eventTime": None if moment is None else moment.isoformat(),
    }


def _is_columns(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("pyarrow", "polars")


# -- blobs: files below one directory -----------------------------------------------------------------------------


def blob_path(root: Path, pattern: str, names: Mapping[str, Any]) -> Path:
    """Where a blob lies. Raises ValueError: unknown placeholders, or a path that leads out of the directory."""

    def value(match: re.Match[str]) -> str:
        name, _, form = match[1].partition(":")
        if name.lower() in ("rand-guid", "sys.randguid"):
            return str(uuid.uuid4())
        if name.lower() in ("datetime", "sys.utcnow"):
            return _time(form)
        found: Any = names
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is None:
            raise ValueError(f"blob path {pattern!r}: nothing is known of {{{name}}}")
        return str(found)

    path = (root / _PLACE.sub(value, pattern).lstrip("/")).resolve()
    if not path.is_relative_to(root.resolve()) or path == root.resolve():
        raise ValueError(f"blob path {pattern!r} leads out of the directory of blobs")
    return path


def _time(form: str) -> str:
    now = datetime.now(UTC)
    for theirs, ours in (
        ("yyyy", "%Y"),
        ("MM", "%m"),
        ("dd", "%d"),
        ("HH", "%H"),
        ("hh", "%I"),
        ("mm", "%M"),
        ("ss", "%S"),
    ):
        form = form.replace(theirs, ours)
    return now.strftime(form or "%Y-%m-%dT%H-%M-%SZ")


def write_blob(root: Path, pattern: str, value: Any, names: Mapping[str, Any]) -> None:
    """Write a blob whole or not at all."""
    data = value.read() if callable(getattr(value, "read", None)) else value
    data = data.encode() if isinstance(data, str) else bytes(data)
    path = blob_path(root, pattern, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    scratch.replace(path)
