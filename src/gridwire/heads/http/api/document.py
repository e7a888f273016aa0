"""The OpenAPI document of a table of routes.

    routes.Route  --- which addresses and methods there are, and how they tell of errors
    OPERATIONS    --- what each takes and answers        sign_in.ACTIONS --- which right it takes
    msgspec       --- schemas of bodies and answers      problems       --- which errors there are

Source: OpenAPI Specification 3.1.1; JSON Schema 2020-12.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from gridwire.auth.model import ANY_RIGHT, TABLE, Action, Over, right_names
from gridwire.heads.http.api import shapes
from gridwire.heads.http.api.model import JSON, Answer, Body, Operation, Parameter, Raw
from gridwire.heads.http.api.operations import NAMES, OPERATIONS
from gridwire.heads.http.request import JSON_HEADERS
from gridwire.heads.http.routes import Answer as Response
from gridwire.heads.http.routes import Call, Route
from gridwire.heads.http.sign_in import ACTIONS, OPEN
from gridwire.wire.http import eventhubs, problems, schemas

Plain = dict[str, Any]

VERSION: Final = "v1"
"""Of the API, not of the hub: who has not signed in need not know how old a hub is."""

ABOUT: Final = (
    "The HTTP API of a gridwire hub; see docs/reference/http.md. Errors are problem documents (RFC 9457). A hub "
    "without sign-in serves its own machine; with sign-in each call takes the rights in `x-gridwire-rights`. HEAD is "
    "answered where GET is, streams aside. Request headers above 64 KiB are refused with 431."
)

REFUSALS: Final[Mapping[int, str]] = {
    400: "Malformed body, name, setting or parameter.",
    401: "Sign in first.",
    403: "A right is missing, or the hub, host name or page is not allowed.",
    404: "Unknown hub, partition, group, name or address.",
    405: "Wrong method; `allow` says which are right.",
    408: "The body took too long.",
    409: "It exists, is in use, or needs what is switched off.",
    413: "Body, event or batch above its limit.",
    415: "Unknown content type or encoding.",
    429: "Too many large requests at once, or the quota is used up.",
    500: "Stored data is damaged, or the hub failed.",
    502: "The app broke off.",
    503: "The disk refused a write, the hub is not ready, or too much is under way.",
    504: "The app did not answer in time.",
    507: "The disk is full; reading goes on.",
}
"""Statuses that are errors, and what they mean."""

_ALWAYS: Final = (400, 403, 500, 503)
_WITH_SIGN_IN: Final = (401, 429)
_WITH_BODY: Final = (408, 413, 415, 429)
_WITH_NAMES: Final = (404,)
_WITH_CHANGES: Final = (507,)

_STYLES: Final[Mapping[Any, tuple[str, str, Any]]] = {
    problems.rendered: ("Problem", problems.CONTENT_TYPE, shapes.Problem),
    eventhubs.rendered: ("EventHubsError", eventhubs.ERROR_TYPE.partition(";")[0], str),
    schemas.rendered: ("RegistryError", JSON, shapes.AzureError),
}
"""How addresses tell of errors: name of the answers in the document, content type and type of the body."""

SECURITY_SCHEMES: Final[Plain] = {
    "basic": {"type": "http", "scheme": "basic", "description": "Name and key of a policy."},
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "signature": {
        "type": "apiKey", "in": "header", "name": "Authorization",
        "description": "`SharedAccessSignature sr=..&sig=..&se=..&skn=..`",
    },
    "certificate": {"type": "mutualTLS", "description": "A client certificate that the hub knows."},
}  # fmt: skip

ASYNCAPI_FILE: Final = Path(__file__).with_name("asyncapi.json")
"""Written by scripts/generate_docs.py, for its schemas are those of the grid's workers, which the hub does not load."""


class Documents:
    """Both documents as addresses serve them; neither holds anything of this hub but which addresses it has."""

    def __init__(self, routes: Callable[[], Iterable[Route]]) -> None:
        self._routes = routes

    async def openapi(self, call: Call) -> Response:
        """GET /v1/openapi.json."""
        return Response(200, self._openapi, JSON_HEADERS)

    async def asyncapi(self, call: Call) -> Response:
        """GET /v1/asyncapi.json."""
        return Response(200, self._asyncapi, JSON_HEADERS)

    @functools.cached_property
    def _openapi(self) -> bytes:
        return msgspec.json.encode(openapi(self._routes()))

    @functools.cached_property
    def _asyncapi(self) -> bytes:
        return ASYNCAPI_FILE.read_bytes()


def openapi(routes: Iterable[Route]) -> Plain:
    """The document as plain values. Raises LookupError: a route is not described."""
    rows = [(route, method, _operation(route, method)) for route in routes for method in route.methods]
    types = _Types(shape for _, _, operation in rows for shape in _shapes(operation))
    paths: dict[str, Plain] = {}
    for route, method, operation in rows:
        paths.setdefault(_path(route), {})[method.lower()] = _described(route, method, operation, types)
    groups = dict.fromkeys(operation.group for _, _, operation in rows)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gridwire", "version": VERSION, "description": ABOUT, "license": _LICENSE},
        "servers": [{"url": "/", "description": "the hub this document comes from"}],
        "tags": [{"name": group} for group in groups],
        "security": [{}, *({name: []} for name in SECURITY_SCHEMES)],
        "paths": paths,
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "responses": dict(_refusals(types)),
            "schemas": types.components,
        },
    }


_LICENSE: Final = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def _operation(route: Route, method: str) -> Operation:
    found = OPERATIONS.get((method, route.path))
    if found is None:
        raise LookupError(f"{method} {route.path} is not described: say in heads/http/api/operations.py what it does")
    return found


def _path(route: Route) -> str:
    return route.path.removesuffix("*") + "{path}" if route.path.endswith("/*") else route.path


def _described(route: Route, method: str, operation: Operation, types: _Types) -> Plain:
    rights = list(_rights(route.label, method, operation))
    about = " ".join(part for part in (operation.about, _rights_text(rights)) if part)
    found: Plain = {
        "operationId": operation.name,
        "tags": [operation.group],
        "summary": operation.summary,
        "description": about,
        "x-gridwire-rights": rights,
        "parameters": [_parameter(each, types) for each in _parameters(route, operation)],
        "responses": _responses(route, method, operation, types),
    }
    if operation.body is not None:
        found["requestBody"] = _body(operation.body, types)
    if route.label in OPEN:
        found["security"] = []
    return found


# -- rights


def _rights(label: str, method: str, operation: Operation) -> Iterator[Plain]:
    """What a call takes where people sign in: first what its address does, then what it turned out to need."""
    if label in OPEN:
        return
    action = ACTIONS.get((label, method), Action.OPERATE)
    rule = TABLE[action]
    yield _right(action, f"the {rule.over.value}" if rule.over in (Over.HUB, Over.GROUP) else "the namespace")
    for need in operation.needs:
        yield _right(need.action, need.on)


def _right(action: Action, on: str) -> Plain:
    rule = TABLE[action]
    if rule.rights == ANY_RIGHT and rule.over is Over.ANYTHING:
        return {"action": action.value, "rights": right_names(rule.rights), "on": "anything"}
    return {"action": action.value, "rights": right_names(rule.rights), "on": on}


def _rights_text(rights: list[Plain]) -> str:
    named = [f"{' or '.join(each['rights'])} on {each['on']}" for each in rights if each["on"] != "anything"]
    if named:
        return f"With sign-in it takes {', and '.join(named)}."
    return "With sign-in any right will do." if rights else "Nobody has to sign in for it."


# -- parameters and bodies


def _parameters(route: Route, operation: Operation) -> list[Parameter]:
    """Those of the path in its order, then the others."""
    given = {each.name: each for each in operation.parameters if each.place == "path"}
    names = [segment[1:-1] for segment in _path(route).split("/") if segment.startswith("{")]
    in_path = [given.get(name) or Parameter(name, NAMES[name], place="path", required=True) for name in names]
    return [*in_path, *(each for each in operation.parameters if each.place != "path")]


def _parameter(parameter: Parameter, types: _Types) -> Plain:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.help,
        "schema": types.schema(parameter.shape),
    }


def _body(body: Body, types: _Types) -> Plain:
    return {"required": body.required, "content": types.content(body.media)}


# -- answers


def _responses(route: Route, method: str, operation: Operation, types: _Types) -> Plain:
    found = {str(status): _answer(answer, types) for status, answer in operation.answers.items()}
    style = _STYLES[route.errors][0]
    for status in sorted(_refused(route, method, operation)):
        found.setdefault(str(status), {"$ref": f"#/components/responses/{style}{status}"})
    if route.path.endswith("/*"):
        found["default"] = {"description": "Whatever the app answers."}
    return found


def _refused(route: Route, method: str, operation: Operation) -> set[int]:
    found = {*_ALWAYS, *operation.refusals}
    if route.label not in OPEN:
        found.update(_WITH_SIGN_IN)
    if operation.body is not None:
        found.update(_WITH_BODY)
    if "{" in route.path:
        found.update(_WITH_NAMES)
    if method not in ("GET", "HEAD", "OPTIONS"):
        found.update(_WITH_CHANGES)
    return found


def _answer(answer: Answer, types: _Types) -> Plain:
    found: Plain = {"description": answer.help}
    if answer.media:
        found["content"] = types.content(answer.media)
    if answer.headers:
        found["headers"] = {
            name: {"description": help, "schema": {"type": "string"}} for name, help in answer.headers.items()
        }
    return found


def _refusals(types: _Types) -> Iterator[tuple[str, Plain]]:
    """Errors by style and status. A request with a foreign Host is refused before its address is looked at."""
    usual = {problems.CONTENT_TYPE: shapes.Problem}
    for name, content_type, shape in _STYLES.values():
        media = {**usual, content_type: shape}
        for status, help in REFUSALS.items():
            yield f"{name}{status}", {"description": help, "content": types.content(media)}


# -- types


def _shapes(operation: Operation) -> Iterator[Any]:
    yield from (each.shape for each in operation.parameters)
    if operation.body is not None:
        yield from operation.body.media.values()
    for answer in operation.answers.values():
        yield from answer.media.values()


class _Types:
    """Schemas of types: those with a name in `components`, each once."""

    def __init__(self, shapes_used: Iterable[Any]) -> None:
        styles = (shape for _, _, shape in _STYLES.values())
        used = chain.from_iterable(each if isinstance(each, tuple) else (each,) for each in (*shapes_used, *styles))
        found = {repr(shape): shape for shape in used if shape is not Raw}
        made, components = msgspec.json.schema_components(found.values(), ref_template="#/components/schemas/{name}")
        self.components: Plain = dict(sorted(components.items()))
        self._schemas = dict(zip(found, made, strict=True))

    def schema(self, shape: Any) -> Plain:
        """Of one type, or of a tuple of them of which one will do."""
        if isinstance(shape, tuple):
            return {"anyOf": [self.schema(each) for each in shape]}
        return self._schemas[repr(shape)]

    def content(self, media: Mapping[str, Any]) -> Plain:
        """Of content types; bytes that no schema describes have none."""
        return {name: {} if shape is Raw else {"schema": self.schema(shape)} for name, shape in media.items()}
