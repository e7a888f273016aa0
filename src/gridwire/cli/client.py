"""The command line's HTTP client: the hub's errors become one sentence, a hub that is not there becomes advice."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from gridwire.address import HubAddress, reachable
from gridwire.core.batch import Event, encode
from gridwire.core.errors import GridwireError, NotAllowed, NotAuthenticated, Unavailable

PUT_S: Final = 180.0
"""How long the hub may take over something large, such as an app that it loads to check it."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it lies in its hub. `value`: its bytes as they were sent; a header's last value counts."""

    offset: int
    value: bytes
    headers: Mapping[str, str]


class _Row(msgspec.Struct):
    offset: int
    value: msgspec.Raw
    format: str = "json"
    headers: dict[str, Any] = {}


class _Page(msgspec.Struct):
    events: list[_Row]
    next: int
    end: int


_PAGE: Final = msgspec.json.Decoder(_Page)


def _stored(row: _Row) -> StoredEvent:
    value = bytes(row.value)
    if row.format == "text":
        value = msgspec.json.decode(value, type=str).encode()
    elif row.format == "base64":
        value = base64.b64decode(msgspec.json.decode(value)["base64"])
    elif row.format == "null":
        value = b""
    headers = {name: str(text[-1] if isinstance(text, list) else text) for name, text in row.headers.items()}
    return StoredEvent(row.offset, value, headers)


class HubClient:
    """Talks to one hub's HTTP head.

    Args:
        url: where; else `GRIDWIRE_URL`, else the default port on this machine.
        connection_string: policy and key to sign with; else `GRIDWIRE_CONNECTION_STRING`.
    """

    def __init__(self, url: str | None = None, timeout_s: float = 30.0, connection_string: str | None = None) -> None:
        address = HubAddress.found(url, connection_string)
        self.url = address.url
        self._http = httpx.Client(**address.options(timeout_s))

    def get(self, path: str, **query: Any) -> Any:
        """GET, answer parsed from JSON."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def raw(self, path: str, **query: Any) -> bytes:
        """GET, answer as it came."""
        return self._request("GET", path, params={k: v for k, v in query.items() if v is not None}).content

    def post(self, path: str, body: Any) -> Any:
        """POST JSON."""
        return self._call("POST", path, json=body)

    def put(self, path: str, body: bytes, content_type: str, query: Mapping[str, Any]) -> Any:
        """PUT bytes; what takes them may take its time."""
        headers = {"content-type": content_type}
        return self._call("PUT", path, content=body, headers=headers, params=query, timeout=PUT_S)

    def put_json(self, path: str, body: Any) -> Any:
        """PUT JSON."""
        return self._call("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        """PATCH JSON."""
        return self._call("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """DELETE."""
        return self._call("DELETE", path)

    def send(
        self,
        hub: str,
        body: bytes,
        content_type: str,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Post events as they are."""
        wanted = {k: v for k, v in (query or {}).items() if v is not None}
        return self._call(
            "POST",
            f"/v1/hubs/{quote(hub, safe='')}/events",
            content=body,
            params=wanted,
            headers={"content-type": content_type, **(headers or {})},
        )

    def send_events(self, hub: str, events: list[Event]) -> None:
        """Post events with their keys and headers. Returns when they are as durable as the hub promises."""
        self.send(hub, bytes(encode(events)), "application/vnd.gridwire.batch")

    def stored(self, hub: str, partition: int, offset: int) -> Iterator[StoredEvent]:
        """Events of a partition from an offset to its end, with the bytes that were sent."""
        while True:
            query = {"partition": partition, "offset": offset, "limit": 1000}
            page = _PAGE.decode(self._request("GET", f"{hub_path(hub)}/events", params=query).content)
            yield from map(_stored, page.events)
            if page.next >= page.end or page.next == offset:
                return
            offset = page.next

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._request(method, path, **arguments)
        return response.json() if response.content else None

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with reachable(self.url):
            response = self._http.request(method, path, **arguments)
        if response.status_code >= 400:
            raise _refusal(response)
        return response

    def stream(self, path: str, **query: Any) -> Iterator[Any]:
        """Server-sent events, each one's data parsed from JSON."""
        wanted = {k: v for k, v in query.items() if v is not None}
        with (
            reachable(self.url),
            self._http.stream("GET", path, params=wanted, timeout=httpx.Timeout(10, read=60)) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise _refusal(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])


def _refusal(response: httpx.Response) -> GridwireError:
    """What the hub answered as an error of its kind, see `gridwire.cli.main.EXIT_CODES`."""
    kinds: dict[int, type[GridwireError]] = {401: NotAuthenticated, 403: NotAllowed, 503: Unavailable}
    return kinds.get(response.status_code, GridwireError)(_problem(response))


def _problem(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return str(problem.get("detail") or problem.get("title"))
    except (ValueError, AttributeError):
        return f"{response.status_code} {response.reason_phrase}"


def hub_path(hub: str) -> str:
    """The API path of a hub."""
    return f"/v1/hubs/{quote(hub, safe='')}"
