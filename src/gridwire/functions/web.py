"""The host's HTTP side: HTTP functions, Event Grid's webhook, calls by hand, and what there is to see.

/<prefix>/<route>                              HTTP functions
/runtime/webhooks/EventGrid?functionName=...   Event Grid functions, both schemas and both handshakes
/admin/functions, /admin/functions/<name>      list; call a function that has no HTTP trigger
/admin/host/status, /metrics
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gridwire.core.limits import HTTP_BODY_BYTES_MAX
from gridwire.functions import model
from gridwire.functions.keys import Keys
from gridwire.functions.model import Call, Function, Result
from gridwire.functions.routes import Route, table

METHODS: Final = ("GET", "POST", "DELETE", "HEAD", "PATCH", "PUT", "OPTIONS")

Invoke = Callable[[Function, Call], Awaitable[Result]]
"""Call a function and publish what it hands out; `error` says what went wrong."""


class Web:
    """An ASGI application over `invoke`.

    Args:
        keys: None lets everybody in, as tools for local development do.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        prefix: str,
        invoke: Invoke,
        keys: Keys | None,
        status: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], str],
    ) -> None:
        self._functions = {function.name: function for function in functions}
        self._routes = table(prefix, [function for function in functions if function.trigger == model.HTTP])
        self._invoke, self._keys, self._status, self._metrics = invoke, keys, status, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except _Refused as refused:
            response = JSONResponse({"error": refused.reason}, refused.status)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path == "/runtime/webhooks/EventGrid" or path.lower() == "/runtime/webhooks/eventgrid":
            return await self._event_grid(request)
        if path == "/metrics":
            return Response(self._metrics(), media_type="text/plain; version=0.0.4")
        if path == "/admin/host/status":
            self._admit(request, "ADMIN", None)
            return JSONResponse(dict(self._status()))
        if path == "/admin/functions":
            self._admit(request, "ADMIN", None)
            return JSONResponse([{"name": each.name, "trigger": each.trigger} for each in self._functions.values()])
        if path.startswith("/admin/functions/"):
            return await self._by_hand(request, path.removeprefix("/admin/functions/"))
        return await self._function(request)

    def _admit(self, request: Request, level: str, function: str | None) -> None:
        """Let a request in. Raises _Refused 401."""
        if self._keys is None:
            return
        given = request.headers.get("x-functions-key") or request.query_params.get("code") or ""
        if not self._keys.allow(given, level, function):
            raise _Refused(401, "this takes a key: header x-functions-key or query parameter code")

    def _find(self, request: Request) -> tuple[Route, dict[str, str]]:
        other = False
        for route in self._routes:
            parameters = route.match(request.url.path)
            if parameters is None:
                continue
            if request.method in (route.function.methods or METHODS):
                return route, parameters
            other = True
        raise _Refused(
            405 if other else 404, "no function takes this method" if other else "no function has this route"
        )

    async def _function(self, request: Request) -> Response:
        route, parameters = self._find(request)
        function = route.function
        self._admit(request, function.auth, function.name)
        arguments = {
            "method": request.method,
            "url": str(request.url),
            "headers": dict(request.headers),
            "params": dict(request.query_params),
            "route_params": parameters,
            "body": await _body(request),
        }
        result = await self._invoke(function, Call(function.name, trace=_trace(request), arguments=arguments))
        if result.error:
            return Response(status_code=504 if result.error.startswith("TimeoutError: the call") else 500)
        status, headers, body = result.answer or (204, [], b"")
        response = Response(body, status)
        response.raw_headers = [
            (name.encode("latin-1"), text.encode("latin-1")) for name, text in headers if name != "content-length"
        ]
        if status not in (204, 304) and status >= 200:
            response.raw_headers.append((b"content-length", str(len(body)).encode()))
        return response

    async def _by_hand(self, request: Request, name: str) -> Response:
        """POST {"input": ...}: run a timer now, give an Event Grid function an event."""
        self._admit(request, "ADMIN", None)
        function = self._functions.get(name)
        if function is None:
            raise _Refused(404, f"there is no function {name!r}")
        if request.method == "GET":
            return Response(json.dumps(_shown(function)), media_type="application/json")
        if function.trigger in (model.HTTP, *model.STREAMS):
            how = "call its route" if function.trigger == model.HTTP else f"send events to hub {function.hub}"
            raise _Refused(400, f"function {name} has a trigger of its own: {how}")
        body = await _body(request)
        try:
            given = json.loads(body or b"{}").get("input", "")
        except (ValueError, AttributeError):
            raise _Refused(400, 'the body must be a JSON object {"input": ...}') from None
        text = given if isinstance(given, str) else json.dumps(given)
        if function.trigger == model.TIMER:
            arguments: dict[str, Any] = {"IsPastDue": False, "ScheduleStatus": {}, "Schedule": {"AdjustForDST": True}}
        else:
            arguments = {"event": text, "body": text.encode()}
        result = await self._invoke(function, Call(name, trace=_trace(request), arguments=arguments))
        return JSONResponse({"error": result.error}, 500) if result.error else Response(status_code=202)

    # -- Event Grid -------------------------------------------------------------------------------------------------

    async def _event_grid(self, request: Request) -> Response:
        """Deliveries and handshakes of both schemas. Source: Event Grid's reference, cloudevents/http-webhook.md."""
        function = self._functions.get(request.query_params.get("functionName", ""))
        if function is None or function.trigger != model.EVENT_GRID:
            raise _Refused(404, "functionName must name a function with an Event Grid trigger")
        self._admit(request, "SYSTEM", function.name)
        if request.method == "OPTIONS":
            return _allowed(request)
        if request.method != "POST":
            raise _Refused(405, "events are posted")
        events = _events(request, await _body(request))
        for event in events:
            if event.get("eventType") == "Microsoft.EventGrid.SubscriptionValidationEvent":
                return JSONResponse({"validationResponse": (event.get("data") or {}).get("validationCode")})
        for event in events:
            call = Call(function.name, trace=_trace_of(event, request), arguments={"event": json.dumps(event)})
            result = await self._invoke(function, call)
            if result.error:
                return JSONResponse({"error": result.error}, 500)
        return Response(status_code=202)


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _allowed(request: Request) -> Response:
    origin = request.headers.get("webhook-request-origin")
    if origin is None:
        raise _Refused(400, "WebHook-Request-Origin is missing")
    headers = {"webhook-allowed-origin": origin, "allow": "POST, OPTIONS"}
    if rate := request.headers.get("webhook-request-rate"):
        headers["webhook-allowed-rate"] = rate
    return Response(status_code=200, headers=headers)


def _events(request: Request, body: bytes) -> list[dict[str, Any]]:
    """The events of a delivery. Raises _Refused 400."""
    binary = {
        name.removeprefix("ce-"): value for name, value in request.headers.items() if name.startswith("ce-")
    }  # CloudEvents' binary mode: attributes are headers
    try:
        if "specversion" in binary:
            kind = request.headers.get("content-type", "application/json")
            data = json.loads(body) if "json" in kind and body else body.decode()
            return [{**binary, "datacontenttype": kind, "data": data}]
        found = json.loads(body)
    except ValueError as error:
        raise _Refused(400, f"the body is not JSON: {error}") from None
    events = found if isinstance(found, list) else [found]
    if not all(isinstance(event, dict) for event in events):
        raise _Refused(400, "events must be JSON objects")
    return events


async def _body(request: Request) -> bytes:
    """The whole body. Raises _Refused 413."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > HTTP_BODY_BYTES_MAX:
            raise _Refused(413, f"a body may have {HTTP_BODY_BYTES_MAX} bytes")
    return bytes(body)


def _trace(request: Request) -> tuple[str, str]:
    return request.headers.get("traceparent", ""), request.headers.get("tracestate", "")


def _trace_of(event: Mapping[str, Any], request: Request) -> tuple[str, str]:
    """The event's own trace (CloudEvents' distributed tracing extension), else that of its delivery."""
    if isinstance(parent := event.get("traceparent"), str) and parent:
        return parent, str(event.get("tracestate") or "")
    return _trace(request)


def _shown(function: Function) -> dict[str, Any]:
    return {"name": function.name, "trigger": function.trigger, "hub": function.hub, "route": function.route}


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the host has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def server(app: Web) -> Server:
    """A server of `app`; run `serve(sockets=[...])`, end it with `should_exit`."""
    config = uvicorn.Config(
        app, loop="none", ws="none", lifespan="off", interface="asgi3", log_config=None, log_level="critical",
        access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=10,
    )  # fmt: skip
    return Server(config)


def listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind(address)
        bound.listen(512)
    except OSError:
        bound.close()
        raise
    return bound
