"""Who may talk to a hub without a password: this machine's own programs, and the page the hub itself serves.

Two attacks reach a loopback port through the user's browser. A foreign page may send requests it cannot read the
answers of: every state-changing request with an `Origin` must come from the address it is sent to. And a foreign name
may be made to resolve to 127.0.0.1 (DNS rebinding), which makes the foreign page same-origin: so a hub bound to
loopback answers to loopback names only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.types import Scope

from gridwire.wire.http.problems import Forbidden, HttpError

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


@lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_name(authority: str) -> str:
    """The host of `host:port`, of a bracketed IPv6 address, or of a bare host."""
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Guard:
    """Checks Host and Origin of every request.

    Args:
        loopback: whether the endpoint is bound to loopback and so must only answer to loopback names.
        hosts_allowed: further names it answers to, lower case, without port.
    """

    loopback: bool
    hosts_allowed: frozenset[str] = frozenset()

    def check(self, scope: Scope) -> None:
        """Raises HttpError or Forbidden when this request must not be served."""
        host = origin = site = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    raise HttpError(400, "the request has two Host headers")
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value
        if host is None and scope["http_version"] != "1.0":
            raise HttpError(400, "the request has no Host header")
        if host is not None and self.loopback:
            self._check_host(host)
        if scope["method"] not in SAFE_METHODS:
            _check_origin(origin, host or "", site)

    def _check_host(self, authority: str) -> None:
        name = host_name(authority)
        if not is_loopback(name) and name.lower() not in self.hosts_allowed:
            raise Forbidden(
                f"this hub answers to loopback names only, not to {name[:80]!r}: use http://127.0.0.1 or allow the name"
            )


def _check_origin(origin: str | None, host: str, site: bytes | None) -> None:
    if site == b"cross-site":
        raise Forbidden("requests that change something are not taken from pages of other sites")
    if origin is None:
        return
    scheme, _, authority = origin.partition("://")
    if not authority or _with_port(authority, scheme) not in _own(host):
        raise Forbidden(f"requests that change something are not taken from pages of {origin[:80]!r}")


def _own(host: str) -> Iterable[str]:
    """The Host header's authority with its port, as either scheme would have it: TLS may end in front of us."""
    return {_with_port(host, scheme) for scheme in _DEFAULT_PORTS}


def _with_port(authority: str, scheme: str) -> str:
    rest = authority[len(host_name(authority)) :]
    return (authority if rest.startswith(":") else f"{authority}:{_DEFAULT_PORTS.get(scheme, '')}").lower()
