"""An event as JSON, for browsing and tailing: what is JSON stays JSON, byte for byte.

    {"partition":0,"offset":7,"timestamp":1700000000000,"key":"m-1","value":{...},"format":"json","headers":{}}

`value`: JSON or text where it is, else {"base64": "..."}; `format` tells which: json, text, base64 or null.
Keys and header values: text or base64. A header name that comes more than once has a list of its values.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import orjson

from gridwire.core.batch import Event, Headers

_NEWLINES = bytes.maketrans(b"\r\n", b"  ")


def text_of(data: bytes | None) -> str | dict[str, str] | None:
    """UTF-8 text, or base64 of what is none."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _value(data: bytes | None) -> tuple[Any, str]:
    if data is None:
        return None, "null"
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        text = text_of(data)
        return text, "text" if isinstance(text, str) else "base64"
    # A line feed in valid JSON is only ever white space, and would break a line-based stream.
    return msgspec.Raw(data.translate(_NEWLINES)), "json"


def _headers(headers: Headers) -> dict[str, Any]:
    out: dict[str, Any] = {}
    repeated = set()
    for name, data in headers:
        value = text_of(data)
        if name not in out:
            out[name] = value
        elif name in repeated:
            out[name].append(value)
        else:
            out[name] = [out[name], value]
            repeated.add(name)
    return out


def parts_of(event: Event) -> dict[str, Any]:
    """What an event says, apart from where and when."""
    value, form = _value(event.value)
    return {"key": text_of(event.key), "value": value, "format": form, "headers": _headers(event.headers)}


def event_json(partition: int, event: Event) -> bytes:
    """The event as one line of JSON."""
    place = {"partition": partition, "offset": event.offset, "timestamp": event.timestamp}
    return msgspec.json.encode(place | parts_of(event))
