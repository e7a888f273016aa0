"""One HTTP request to a receiver, and what it answered, within limits.

No redirects, no proxies of the environment, certificates checked against the name in the URL; the connection goes to an
address that was looked at (`addresses`). Plain http goes only where the setting `webhook_allow` lets it: elsewhere
anybody on the way could read the header and the finding.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import httpx

import gridwire
from gridwire.broker.alert_routes import check_url
from gridwire.core.errors import GridwireError
from gridwire.router.addresses import Allowed, Found, Refused, Resolve, find, system_resolve

CONNECT_S: Final = 5.0
TOTAL_S: Final = 30.0
"""A whole try, from the first look-up to the last byte that is read. Event Grid waits as long."""

ANSWER_BYTES_MAX: Final = 2048
"""What is read of an answer; more says nothing to anybody."""

CONNECTIONS_MAX: Final = 8
"""To one receiver."""

ADDRESSES_TRIED_MAX: Final = 3
ORIGIN_HEADER: Final = "webhook-request-origin"
ALLOWED_HEADER: Final = "webhook-allowed-origin"
RATE_HEADER: Final = "webhook-allowed-rate"
RATE_MAX: Final = 1_000_000
"""Requests a minute, above which a receiver's limit means nothing."""


class NotSent(GridwireError):
    """No answer: not resolved, refused by our rules, not connected, or too slow."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said. `headers`: names in lower case. `body`: its beginning."""

    status: int
    headers: Mapping[str, str]
    body: str = ""


class Sender:
    """Requests to one receiver. `tls`: None for the system's authorities."""

    def __init__(
        self, allowed: Allowed, *, resolve: Resolve = system_resolve, tls: ssl.SSLContext | None = None,
        total_s: float = TOTAL_S,
    ) -> None:  # fmt: skip
        self._allowed, self._resolve, self._total_s = allowed, resolve, total_s
        self._client = httpx.AsyncClient(
            verify=tls or _system_tls(),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(total_s, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=30.0),
        )

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """One request. Raises NotSent, with a reason that fits a line."""
        try:
            async with asyncio.timeout(self._total_s):
                return await self._ask(method, url, headers, body)
        except Refused as error:
            raise NotSent(str(error)) from None
        except (TimeoutError, httpx.TimeoutException):
            raise NotSent(f"the receiver did not answer within {self._total_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise NotSent(f"the receiver cannot be reached: {_line(error)}") from None

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = check_url(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await find(host, port, self._allowed, self._resolve)
        _check_scheme(parts.scheme, host, found)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        named = {**headers, "host": parts.netloc, "accept-encoding": "identity",
                 "user-agent": f"gridwire/{gridwire.__version__}"}  # fmt: skip
        send = partial(self._send, method, host=host, headers=named, body=body)
        tried = found.addresses[:ADDRESSES_TRIED_MAX]
        for address in tried[:-1]:
            try:
                return await send(_url(parts.scheme, address, port, target))
            except httpx.ConnectError:
                continue
        return await send(_url(parts.scheme, tried[-1], port, target))

    async def _send(self, method: str, url: httpx.URL, *, host: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """To one address; the certificate has to be that of the host in the receiver's own URL."""
        request = self._client.build_request(
            method, url, headers=headers, content=body, extensions={"sni_hostname": host}
        )
        response = await self._client.send(request, stream=True)
        try:
            read = b""
            async for part in response.aiter_raw():
                read += part
                if len(read) > ANSWER_BYTES_MAX:
                    break  # closing an answer that goes on ends its connection
        finally:
            await response.aclose()
        told = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, told, read[:ANSWER_BYTES_MAX].decode("utf-8", "replace"))


@lru_cache(1)
def _system_tls() -> ssl.SSLContext:
    """The system's authorities; reading them takes a while, so all senders share them."""
    return ssl.create_default_context()


async def agree(sender: Sender, url: str, origin: str, headers: Mapping[str, str]) -> int:
    """Ask a receiver whether it wants deliveries, as CloudEvents' HTTP webhooks do (4).

    Args:
        origin: who asks.

    Returns:
        Requests a minute it allows; 0 where it sets no limit.

    Raises:
        NotSent: it does not agree.
    """
    answer = await sender.ask("OPTIONS", url, {**headers, ORIGIN_HEADER: origin})
    allowed = answer.headers.get(ALLOWED_HEADER, "").strip()
    if not 200 <= answer.status < 300:
        raise NotSent(f"the receiver answered the handshake (OPTIONS with WebHook-Request-Origin) with {answer.status}")
    if allowed != "*" and allowed.lower() != origin.lower():
        raise NotSent(
            f"the receiver's answer to the handshake names {allowed[:80]!r} in WebHook-Allowed-Origin, "
            f"not {origin!r} or *"
        )
    rate = answer.headers.get(RATE_HEADER, "").strip()
    return min(int(rate[:9]), RATE_MAX) if rate.isascii() and rate.isdigit() else 0


def _check_scheme(scheme: str, host: str, found: Found) -> None:
    if scheme == "http" and not found.inside:
        raise Refused(
            f"http://{host[:200]} is not encrypted: use https, or name the receiver in the hub's setting webhook_allow"
        )


def _url(scheme: str, address: str, port: int, target: str) -> httpx.URL:
    return httpx.URL(scheme=scheme, host=address, port=port, raw_path=target.encode("ascii"))


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
