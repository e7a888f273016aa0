"""Where a token issuer's public keys come from: a file that is read again when it changes, or an https address."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from gridwire.auth.bearer import parse_key_set
from gridwire.core.errors import GridwireError, InvalidSetting, Unavailable

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

DOCUMENT_BYTES_MAX: Final = 1024 * 1024
FETCH_TIMEOUT_S: Final = 10.0
KEEP_S: Final = 600.0
"""How long keys from an address are believed before they are asked for again."""

RETRY_S: Final = 30.0
"""Pause between two fetches, however many tokens come with an unknown key."""

Fetch = Callable[[str], Awaitable[bytes]]
log = structlog.get_logger("gridwire.auth")


class KeyFile:
    """Keys of a JWKS file; looked at once a second at most."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._seen = self._stamp()
        self._keys = self._read()
        self._looked_s = monotonic()

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise InvalidSetting(f"the JWKS file {self._path} cannot be read: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size

    def _read(self) -> KeySet:
        if self._seen[1] > DOCUMENT_BYTES_MAX:
            raise InvalidSetting(f"the JWKS file {self._path} is above {DOCUMENT_BYTES_MAX} bytes")
        return parse_key_set(_json(self._path.read_bytes()))

    def keys(self) -> KeySet:
        """The keys as of now; a file that became unreadable leaves those before it in force."""
        now_s = self._monotonic()
        if now_s - self._looked_s >= 1:
            self._looked_s = now_s
            try:
                stamp = self._stamp()
                if stamp != self._seen:
                    self._seen = stamp
                    self._keys = self._read()
            except (OSError, GridwireError) as error:
                log.error("jwks file cannot be used; the keys before it stay", reason=str(error))
        return self._keys

    def doubted(self) -> None:
        """A token did not fit: nothing more to do than looking at the file, which `keys` does."""


class KeyAddress:
    """Keys of an https address, fetched by `fetch` in the background; until the first answer no token is believed."""

    def __init__(self, url: str, fetch: Fetch, monotonic: Callable[[], float] = time.monotonic) -> None:
        if not url.startswith("https://"):
            raise InvalidSetting(f"a JWKS comes from a file or an https address, not from {url[:80]!r}")
        self._url = url
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: KeySet | None = None
        self._asked_s = self._got_s = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def keys(self) -> KeySet:
        """The keys as last fetched. Raises Unavailable when there are none yet."""
        if self._monotonic() - self._got_s > KEEP_S:
            self.doubted()
        if self._keys is None:
            raise Unavailable("the issuer's keys are not there yet: try again in a moment")
        return self._keys

    def doubted(self) -> None:
        """A token did not fit: perhaps its issuer has new keys. Asks again, but not often."""
        now_s = self._monotonic()
        if now_s - self._asked_s >= RETRY_S and (self._task is None or self._task.done()):
            self._asked_s = now_s
            self._task = asyncio.get_running_loop().create_task(self.refresh())

    async def refresh(self) -> None:
        """Fetch now; a failure leaves what there was."""
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                body = await self._fetch(self._url)
            if len(body) > DOCUMENT_BYTES_MAX:
                raise InvalidSetting(f"the JWKS is above {DOCUMENT_BYTES_MAX} bytes")
            self._keys = parse_key_set(_json(body))
            self._got_s = self._monotonic()
        except (OSError, GridwireError, TimeoutError) as error:
            log.error("jwks cannot be fetched", url=self._url, reason=str(error))

    async def close(self) -> None:
        """Stop fetching."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


IssuerKeys = KeyFile | KeyAddress


def issuer_keys(place: str, fetch: Fetch | None = None) -> IssuerKeys:
    """Keys of a file or an https address. Raises InvalidSetting."""
    if "://" in place:
        return KeyAddress(place, fetch or fetch_https)
    return KeyFile(Path(place))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidSetting("the JWKS is not JSON") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """An issuer that moved is configured anew, not followed."""


async def fetch_https(url: str) -> bytes:
    """A bounded GET in a thread, without redirects or proxies. Raises OSError."""

    def get() -> bytes:
        opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=FETCH_TIMEOUT_S) as answer:
            body: bytes = answer.read(DOCUMENT_BYTES_MAX + 1)
        return body

    return await asyncio.to_thread(get)
