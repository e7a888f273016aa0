"""Which address answers to what: a table from path segments to a name and its methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from gridwire.heads.http.request import JSON_HEADERS, Headers, query
from gridwire.wire.http.problems import HttpError

PARAMETER: Final = 2
"""The segment that may be a name: /v1/hubs/{hub}/..., /v1/groups/{group}/..."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    headers: Headers


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer in JSON that no cache keeps."""
    return Answer(status, msgspec.json.encode(value), [*JSON_HEADERS, (b"cache-control", b"no-store")])


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an address. `name`: the hub or group in its path, or empty."""

    scope: Scope
    receive: Receive
    send: Send
    name: str

    def query(self) -> dict[str, str]:
        """Query parameters."""
        return query(self.scope)


Handler = Callable[[Call], Awaitable[Answer | None]]
"""Returns the answer, or None when it has sent one itself."""


@dataclass(frozen=True, slots=True)
class Route:
    """An address. `label` names it in the metrics."""

    label: str
    path: str
    methods: Mapping[str, Handler]

    def handler(self, method: str) -> Handler:
        """The handler of a method. Raises HttpError 405."""
        found = self.methods.get(method)
        if found is None and method == "HEAD":
            found = self.methods.get("GET")
        if found is None:
            allowed = ", ".join(self.methods)
            raise HttpError(405, f"{self.path} takes {allowed}, not {method[:20]}", (("allow", allowed),))
        return found


class Table:
    """Finds the route of a path in one or two look-ups."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._fixed: dict[tuple[str, ...], Route] = {}
        self._named: dict[tuple[str, ...], Route] = {}
        for route in routes:
            segments = route.path.strip("/").split("/")
            if len(segments) > PARAMETER and segments[PARAMETER].startswith("{"):
                self._named[_without_name(segments)] = route
            else:
                self._fixed[tuple(segments)] = route

    def find(self, scope: Scope) -> tuple[Route, str] | None:
        """Route and name of a path. Each segment is unquoted by itself: a quoted slash belongs to a name."""
        raw: bytes = scope["raw_path"]
        segments = raw[1:].decode("latin-1").split("/")
        if b"%" in raw:
            segments = [unquote(segment, errors="replace") for segment in segments]
        if len(segments) > PARAMETER:
            route = self._named.get(_without_name(segments))
            if route is not None and segments[PARAMETER]:
                return route, segments[PARAMETER]
        route = self._fixed.get(tuple(segments))
        return None if route is None else (route, "")


def _without_name(segments: list[str]) -> tuple[str, ...]:
    return (*segments[:PARAMETER], "", *segments[PARAMETER + 1 :])
