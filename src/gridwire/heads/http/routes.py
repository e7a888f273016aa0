"""Which address answers to what: a table from path segments to a name and its methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from gridwire.heads.http.request import JSON_HEADERS, Headers, query
from gridwire.wire.http import problems
from gridwire.wire.http.problems import HttpError, Problem

ErrorStyle = Callable[[Problem], tuple[str, bytes]]
"""An error as the users of an address expect it: content type and body."""


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
    """One request to an address. `names`: what stands in its path for `{...}`, in order."""

    scope: Scope
    receive: Receive
    send: Send
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The hub or group in its path, or empty."""
        return self.names[0] if self.names else ""

    def query(self) -> dict[str, str]:
        """Query parameters."""
        return query(self.scope)


Handler = Callable[[Call], Awaitable[Answer | None]]
"""Returns the answer, or None when it has sent one itself."""


@dataclass(frozen=True, slots=True)
class Route:
    """An address. `label` names it in the metrics. A path that ends with `/*` is that of everything below."""

    label: str
    path: str
    methods: Mapping[str, Handler]
    errors: ErrorStyle = problems.rendered

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
    """Finds the route of a path: one look-up for each arrangement of names that paths of its length have."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._below = {route.path.split("/")[1]: route for route in routes if route.path.endswith("/*")}
        shapes: dict[tuple[int, tuple[int, ...]], dict[tuple[str, ...], Route]] = {}
        for route in [route for route in routes if route not in self._below.values()]:
            segments = route.path.strip("/").split("/")
            places = tuple(at for at, segment in enumerate(segments) if segment.startswith("{"))
            shapes.setdefault((len(segments), places), {})[_fixed(segments, places)] = route
        self._shapes: dict[int, list[tuple[tuple[int, ...], dict[tuple[str, ...], Route]]]] = {}
        for (length, places), found in sorted(shapes.items(), key=lambda item: (len(item[0][1]), item[0])):
            self._shapes.setdefault(length, []).append((places, found))

    def find(self, scope: Scope) -> tuple[Route, tuple[str, ...]] | None:
        """Route and names of a path. Each segment is unquoted by itself: a quoted slash belongs to a name."""
        raw: bytes = scope["raw_path"]
        segments = raw[1:].decode("latin-1").split("/")
        if b"%" in raw:
            segments = [unquote(segment, errors="replace") for segment in segments]
        if segments[0].startswith("$"):  # Azure's own addresses, which come in any case
            segments[0] = segments[0].lower()
        for places, routes in self._shapes.get(len(segments), ()):
            route = routes.get(_fixed(segments, places))
            if route is not None:
                names = tuple(segments[at] for at in places)
                if all(names):
                    return route, names
        below = self._below.get(segments[0])
        return (below, (segments[1],)) if below is not None and len(segments) > 2 and segments[1] else None


def _fixed(segments: list[str], places: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(segment for at, segment in enumerate(segments) if at not in places)
