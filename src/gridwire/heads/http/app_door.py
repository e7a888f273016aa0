"""`/apps/{app}/...`: HTTP functions of deployed apps through the hub's own endpoint.

    client --> hub --> the app's host on loopback

The hub asks nobody to sign in here: who may call is said by the functions themselves (`ANONYMOUS`, `FUNCTION`, `ADMIN`)
and their keys, as in Azure. What the host has for its own machine (`/admin`, `/metrics`) is not passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from gridwire.core.errors import Unavailable
from gridwire.heads.http.options import HttpLimits
from gridwire.heads.http.request import BodyMemory, Headers, read_body
from gridwire.heads.http.routes import Call
from gridwire.wire.http.problems import HttpError

if TYPE_CHECKING:
    import httpx

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
CONNECT_S: Final = 5.0
ANSWER_S: Final = 230.0
"""How long a function may take, as long as Azure's front end waits."""

CONNECTIONS_MAX: Final = 256

_CLOSED: Final = frozenset({"admin", "metrics"})
_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"expect",
})  # fmt: skip
_MADE_HERE: Final = frozenset({
    b"content-length", b"content-encoding", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix",
})  # fmt: skip


class AppDoor:
    """Passes requests on.

    Args:
        address: of an app's HTTP functions. Raises UnknownApp, or Unavailable: it does not run.
    """

    def __init__(self, address: Callable[[str], str], limits: HttpLimits, memory: BodyMemory) -> None:
        self._address, self._limits, self._memory = address, limits, memory
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, call: Call) -> None:
        """Answer with what the app answers. Raises HttpError 404, 502, 504, Unavailable, UnknownApp."""
        rest = call.scope["raw_path"].split(b"/", 3)[3].decode("latin-1")
        if rest.partition("/")[0].lower() in _CLOSED:
            raise HttpError(404, f"/{rest[:40]} of an app is for its own machine")
        address = self._address(call.name)
        body = await read_body(call.scope, call.receive, self._limits, self._limits.body_bytes_max, self._memory)
        try:
            await self._pass_on(call, f"{address}/{rest}", body)
        finally:
            self._memory.give(len(body))

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _pass_on(self, call: Call, url: str, body: bytes) -> None:
        import httpx

        client = self._client = self._client or httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S), trust_env=False,
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
        )  # fmt: skip
        if query := call.scope["query_string"].decode("latin-1"):
            url += f"?{query}"
        request = httpx.Request(call.scope["method"], url, headers=_given(call), content=body)
        try:
            answer = await client.send(request, stream=True)
        except (httpx.TimeoutException, httpx.PoolTimeout):
            raise HttpError(504, f"app {call.name!r} did not answer within {ANSWER_S:.0f} s") from None
        except httpx.ConnectError:
            raise Unavailable(f"app {call.name!r} does not answer now: `gridwire fn logs {call.name}`") from None
        except httpx.HTTPError as error:
            raise HttpError(502, f"app {call.name!r} broke off: {type(error).__name__}") from None
        try:
            headers = _kept(answer.headers.raw)
            await call.send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for chunk in answer.aiter_raw():
                await call.send({"type": "http.response.body", "body": chunk, "more_body": True})
            await call.send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


def _given(call: Call) -> Headers:
    """The request's headers as the app gets them; its body is unpacked by then."""
    client = call.scope.get("client")
    passed = [row for row in _kept(call.scope["headers"]) if row[0] not in _MADE_HERE]
    came_from = b"" if client is None else str(client[0]).encode()
    made = {
        b"x-forwarded-for": came_from,
        b"x-forwarded-proto": call.scope["scheme"].encode(),
        b"x-forwarded-prefix": b"/apps/" + call.name.encode(),
    }
    return [*passed, *made.items()]


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers without those that belong to one connection only. Source: RFC 9110, 7.6.1."""
    rows = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in rows if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in rows if name not in _HOP_BY_HOP and name not in named]
