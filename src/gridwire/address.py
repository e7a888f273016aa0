"""Where a hub is and how one signs in: what every HTTP client of ours is made of."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gridwire import contexts
from gridwire.auth import sas
from gridwire.auth.plain import ConnectionString, parse_connection_string
from gridwire.core.errors import GridwireError, Unavailable

DEFAULT_URL: Final = "http://127.0.0.1:8700"
SIGNED_S: Final = 600
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A hub's HTTP address and what it takes to be let in."""

    url: str
    key: ConnectionString | None = None
    ca_file: str | None = None

    @classmethod
    def found(cls, url: str | None, connection_string: str | None, ca_file: str | None = None) -> HubAddress:
        """What was given, else what `GRIDWIRE_URL`, `GRIDWIRE_CONNECTION_STRING` and `GRIDWIRE_CA_FILE` say, else the
        context in use.

        Raises:
            GridwireError: the url is none. NotAuthenticated: the connection string is malformed.
        """
        url = url or os.environ.get("GRIDWIRE_URL")
        if not url and (context := contexts.chosen()) is not None:
            url, connection_string = context.url, connection_string or context.connection_string
            ca_file = ca_file or context.ca_file
        url = (url or DEFAULT_URL).rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise GridwireError(f"the hub's url must start with http:// or https://, not {url!r}")
        text = connection_string or os.environ.get("GRIDWIRE_CONNECTION_STRING")
        key = parse_connection_string(text) if text else None
        return cls(url, key, ca_file or os.environ.get("GRIDWIRE_CA_FILE"))

    def options(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Arguments of an httpx client, blocking or not."""
        verify = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else True
        auth = self._sign if self.key is not None else None
        return {"base_url": self.url, "timeout": timeout_s, "trust_env": False, "auth": auth, "verify": verify}

    def _sign(self, request: httpx.Request) -> httpx.Request:
        """Add a signature, good for a few minutes; the key itself is not sent."""
        if self.key is not None:
            request.headers["authorization"] = signature(self.key, self.url, int(time.time()) + SIGNED_S)
        return request


def signature(key: ConnectionString, url: str, expires_s: int) -> str:
    """A shared access signature for the hub at `url`, or for the one event hub the connection string names."""
    return sas.sign(f"{url}/{key.hub or ''}", key.name, key.key, expires_s)


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turns a failed connection into Unavailable."""
    try:
        yield
    except httpx.TransportError as error:
        raise Unavailable(
            f"no hub answers at {url} ({error or type(error).__name__}): "
            "start one with `gridwire up`, or name it with --url"
        ) from None
