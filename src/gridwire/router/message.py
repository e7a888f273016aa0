"""How a finding is said to a receiver: one HTTP request, made of the event as it lies in its hub.

    structured   application/cloudevents+json, the whole event as one JSON object
    binary       attributes as ce- headers, the data as the body
    text         {"text": "critical outage opened: ..."}: what Slack, Mattermost and their like take

Source: CloudEvents 1.0.2, its JSON event format (3) and HTTP protocol binding (3.1, 3.2).
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gridwire.alerts import alert_of, moment
from gridwire.core.batch import Event
from gridwire.wire.http.cloudevents import STRUCTURED, is_json_type

JSON: Final = "application/json"
_ATTRIBUTE: Final = re.compile(r"ce_([a-z0-9]{1,60})\Z")
"""Whoever may send to the hub chooses the names of headers; only what can be an attribute is one."""

_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""Characters of a header's value that are not percent-encoded (3.1.3.2)."""

Headers = Mapping[str, str]


def request_of(event: Event, mode: str) -> tuple[Headers, bytes]:
    """Headers and body of the request that delivers an event."""
    if mode == "text":
        return {"content-type": JSON}, msgspec.json.encode({"text": text_of(event)})
    attributes, content_type = _attributes(event)
    if mode == "binary":
        headers = {f"ce-{name}": quote(value, safe=_SAFE) for name, value in attributes.items()}
        return {"content-type": content_type, **headers}, event.value or b""
    return {"content-type": f"{STRUCTURED}; charset=utf-8"}, msgspec.json.encode(_structured(event))


def text_of(event: Event) -> str:
    """A finding in one line."""
    alert = alert_of(event.value)
    if alert is None:
        return (event.value or b"").decode("utf-8", "replace")[:1000]
    since = msgspec.to_builtins(alert.started)
    until = f" until {msgspec.to_builtins(alert.ended)}" if alert.ended else ""
    return f"{alert.severity} {alert.kind} {alert.state}: {alert.subject_kind} {alert.subject}, since {since}{until}"


def _attributes(event: Event) -> tuple[dict[str, str], str]:
    """CloudEvents attributes and the data's media type."""
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in event.headers}
    attributes = {match[1]: value for name, value in told.items() if (match := _ATTRIBUTE.match(name))}
    content_type = told.get("content-type", JSON)
    return attributes, content_type if content_type.isascii() and content_type.isprintable() else JSON


def _structured(event: Event) -> dict[str, Any]:
    attributes, content_type = _attributes(event)
    members: dict[str, Any] = {**attributes, "datacontenttype": content_type}
    value = event.value or b""
    if is_json_type(content_type) and _is_json(value):
        return {**members, "data": msgspec.Raw(value)}
    return {**members, "data_base64": base64.b64encode(value).decode()}


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def sample(name: str, now_ms: int) -> Event:
    """An event that shows a receiver what will come."""
    now = msgspec.to_builtins(moment(now_ms))
    value = msgspec.json.encode(
        {
            "id": f"test/network/{name}/{now}", "state": "opened", "kind": "test", "subject_kind": "network",
            "subject": name, "started": now, "severity": "info", "confidence": 1.0,
            "evidence": {"note": "a test of this route: nothing happened in the grid"}, "detector": "test",
            "version": 0,
        }
    )  # fmt: skip
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", secrets.token_hex(16).encode()),
        ("ce_type", b"gridwire.test.opened"),
        ("ce_source", b"/alert-routes"),
        ("ce_subject", f"network/{name}".encode()),
        ("ce_time", now.encode()),
        ("content-type", b"application/json"),
    )
    return Event(value, name.encode(), headers, now_ms)
