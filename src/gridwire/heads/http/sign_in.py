"""Who an HTTP request comes from and whether he may: shared access signature, bearer token, basic, or certificate."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Final

from starlette.types import Scope

from gridwire.auth import plain, sas
from gridwire.auth.model import TABLE, Action, Identity, Over, allowed, require
from gridwire.broker.identities import Identities
from gridwire.core.errors import NotAllowed, NotAuthenticated
from gridwire.heads.http.request import header
from gridwire.wire.http.problems import HttpError

CERTIFICATE: Final = "gridwire.certificate"
"""Where a request's scope has the names of the client's certificate."""

IDENTITY: Final = "gridwire.identity"
KNOWN_MAX: Final = 1024
"""Credentials remembered with whom they stand for: a signature is checked once, not with every request."""

CREDENTIALS_CHARS_MAX: Final = 32 * 1024
CHALLENGES: Final = tuple(
    ("www-authenticate", way)
    for way in ('Basic realm="gridwire", charset="UTF-8"', 'Bearer realm="gridwire"', "SharedAccessSignature")
)
"""A header each: Chromium takes a header for one challenge, and asks nobody for a password where it cannot read it."""


OPEN: Final = frozenset({"healthz", "readyz", "app", "documents"})
"""Asked by load balancers, which have no key; they tell nothing but up or down. Apps ask for keys of their own.
Documents of the API hold what its source holds: they say how to sign in, to programs that are about to."""

ACTIONS: Final[Mapping[tuple[str, str], Action]] = {
    ("events", "POST"): Action.SEND,
    ("messages", "POST"): Action.SEND,
    ("publisher", "POST"): Action.SEND,
    ("events", "GET"): Action.READ,
    ("tail", "GET"): Action.READ,
    ("copy", "POST"): Action.READ,  # and sending to the hub named in the body, and creating it if it is not there
    ("rights", "GET"): Action.LIST,
    ("hub", "GET"): Action.DESCRIBE_HUB,
    ("hub", "PATCH"): Action.ALTER_HUB,
    ("hub", "DELETE"): Action.DELETE_HUB,
    ("hubs", "GET"): Action.LIST,
    ("hubs", "POST"): Action.LIST,  # and creating the hub named in the body
    ("groups", "GET"): Action.LIST,
    ("group", "GET"): Action.DESCRIBE_GROUP,
    ("reset", "POST"): Action.USE_GROUP,  # and reading the hub named in the body
    ("claims", "GET"): Action.USE_GROUP,  # and reading the hub in the query
    ("claims", "POST"): Action.USE_GROUP,  # and reading the hub named in the body
    ("positions", "GET"): Action.USE_GROUP,  # and reading the hub in the query
    ("positions", "POST"): Action.USE_GROUP,  # and reading the hub named in the body
    ("schemagroups", "GET"): Action.READ_SCHEMA,
    ("schema", "GET"): Action.READ_SCHEMA,
    ("schema", "PUT"): Action.REGISTER_SCHEMA,
    ("schema", "POST"): Action.READ_SCHEMA,
    ("schemas", "GET"): Action.READ_SCHEMA,
    ("schemas", "POST"): Action.REGISTER_SCHEMA,
    ("alerts", "GET"): Action.LIST,  # and reading grid.alerts, as all of these
    ("alert", "GET"): Action.LIST,
    ("ack", "POST"): Action.LIST,  # and sending to grid.alert-notes, as the two below
    ("silences", "GET"): Action.LIST,
    ("silences", "POST"): Action.LIST,
    ("silence", "DELETE"): Action.LIST,
    **{
        (label, method): Action.LIST  # and Manage on grid.alerts
        for label, methods in (
            ("alert_routes", ("GET", "POST")),
            ("alert_route", ("GET", "DELETE")),
            ("alert_route_test", ("POST",)),
            ("alert_route_resume", ("POST",)),
        )
        for method in methods
    },
    ("alert_rules", "GET"): Action.LIST,  # and reading grid.alerts
    ("alert_rules", "POST"): Action.LIST,  # and altering grid.alerts, and reading what the rule reads, as all below
    ("alert_rule_try", "POST"): Action.LIST,
    ("alert_rule", "GET"): Action.LIST,
    ("alert_rule", "PUT"): Action.LIST,
    ("alert_rule", "DELETE"): Action.LIST,
    ("grid", "GET"): Action.LIST,  # and reading the hubs that an address shows
    ("sql", "POST"): Action.OBSERVE,  # the lake is what all captured hubs hold
    ("sql", "GET"): Action.OBSERVE,
    ("live", "GET"): Action.OBSERVE,
    ("metrics", "GET"): Action.OBSERVE,
    ("functions", "GET"): Action.OBSERVE,
    ("function", "GET"): Action.OBSERVE,
    ("status", "GET"): Action.LIST,
    ("page", "GET"): Action.LIST,
}
"""By route and method; what is not here takes Manage on the namespace."""

AUDITED: Final = frozenset(
    {
        ("hub", "PATCH"), ("hub", "DELETE"), ("hubs", "POST"), ("reset", "POST"),
        ("schema", "PUT"), ("schemas", "POST"), ("schemas", "DELETE"), ("schemagroups", "POST"),
        ("schemagroups", "DELETE"), ("ack", "POST"), ("silences", "POST"), ("silence", "DELETE"),
        ("alert_routes", "POST"), ("alert_route", "DELETE"), ("alert_route_test", "POST"),
        ("alert_route_resume", "POST"),
        ("alert_rules", "POST"), ("alert_rule", "PUT"), ("alert_rule", "DELETE"),
        ("function", "PUT"), ("function", "DELETE"), ("function_start", "POST"), ("function_stop", "POST"),
        ("function_invoke", "POST"), ("function_replay", "POST"), ("function_keys", "POST"),
    }
)  # fmt: skip


class Doorman:
    """Stands before every HTTP request of a hub with sign-in."""

    def __init__(self, access: Identities) -> None:
        self.access = access
        self._known: dict[tuple[str, str | None], Identity] = {}
        self._generation = access.generation

    def check(self, scope: Scope, label: str, names: Sequence[str]) -> Identity | None:
        """Whoever asks, if he may; None for what is open to all. Raises HttpError 401, 403, 429.

        Args:
            names: what stands in the path, the hub or group first.
        """
        if label in OPEN:
            return None
        name = names[0] if names else ""
        identity = self._identify(scope, names[1] if label == "publisher" else None)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method != "OPTIONS":
            self._allow(scope, identity, ACTIONS.get((label, method), Action.OPERATE), name or None)
        usage = self.access.usage(identity)
        if usage is not None:
            now_s = self.access.monotonic()
            wait_s = max(usage.inbound.wait_s(now_s), usage.outbound.wait_s(now_s))
            if wait_s > 0:
                after = str(math.ceil(wait_s))
                raise HttpError(429, f"{identity.name} used its quota: wait {after} s", (("retry-after", after),))
        scope[IDENTITY] = identity
        return identity

    def require(self, scope: Scope, action: Action, resource: str) -> None:
        """A further right a request turned out to need. Raises HttpError 403."""
        self._allow(scope, scope[IDENTITY], action, resource)

    async def while_allowed(
        self, scope: Scope, action: Action, resource: str | None, frames: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """A stream's frames for as long as whoever asked for it may. Raises HttpError 401, 403."""
        identity: Identity | None = scope[IDENTITY]
        generation = self.access.generation
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if generation != self.access.generation and identity is not None:
                    generation, identity = self.access.generation, self.access.renew(identity)
                if identity is None or identity.expired(self.access.now_s()):
                    raise HttpError(401, "what this stream was opened with is no longer good")
                self._allow(scope, identity, action, resource)
                yield frame

    def visible(self, scope: Scope, action: Action, rows: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        """Those rows of a list whoever asks may know of."""
        identity = scope[IDENTITY]
        host = _host(scope)
        return [row for row in rows if allowed(identity, action, row[key], host)]

    def may(self, scope: Scope, hub: str | None, group: str | None) -> list[str]:
        """Names of the actions whoever asks may do to a hub, a group and the namespace."""
        identity, host = scope[IDENTITY], _host(scope)
        named = {Over.HUB: hub, Over.GROUP: group}
        return sorted(
            action.value for action, rule in TABLE.items() if allowed(identity, action, named.get(rule.over), host)
        )

    def done(self, scope: Scope, label: str, name: str, status: int) -> None:
        """Write down what was changed."""
        identity = scope.get(IDENTITY)
        if identity is not None and (label, scope["method"]) in AUDITED and status < 400:
            action = f"http.{scope['method']}.{label}"
            self.access.audit.record(identity.name, action, name, peer=_peer(scope))

    def used(self, scope: Scope, bytes_in: int, bytes_out: int) -> None:
        """Charge what a request moved."""
        identity = scope.get(IDENTITY)
        usage = self.access.usage(identity) if identity is not None else None
        if usage is not None:
            now_s = self.access.monotonic()
            usage.inbound.take(bytes_in, now_s)
            usage.outbound.take(bytes_out, now_s)

    def _allow(self, scope: Scope, identity: Identity, action: Action, resource: str | None) -> None:
        try:
            require(identity, action, resource, _host(scope))
        except NotAllowed as error:
            self.access.audit.failed(identity.name, action.value, _peer(scope), str(error))
            raise HttpError(403, str(error)) from None

    def _identify(self, scope: Scope, publisher: str | None) -> Identity:
        text = header(scope, b"authorization").decode("latin-1")
        try:
            if not text:
                identity = self.access.by_certificate(scope.get(CERTIFICATE, ()))
                if identity is None:
                    raise NotAuthenticated("sign in with a key, a token or a certificate")
                return identity
            return self._by_header(text, publisher)
        except NotAuthenticated as error:
            if text:
                self.access.audit.failed("?", "sign-in", _peer(scope), f"http: {error}")
            raise HttpError(401, str(error), CHALLENGES) from None

    def _by_header(self, text: str, publisher: str | None) -> Identity:
        if len(text) > CREDENTIALS_CHARS_MAX:
            raise NotAuthenticated("the credentials are too long")
        if self._generation != self.access.generation:
            self._generation = self.access.generation
            self._known.clear()
        known = (text, publisher)
        identity = self._known.get(known)
        if identity is None:
            identity = self._verified(text, publisher)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[known] = identity
        elif identity.expired(self.access.now_s()):
            del self._known[known]
            raise NotAuthenticated("the time of this token is up")
        return identity

    def _verified(self, text: str, publisher: str | None) -> Identity:
        scheme, _, rest = text.partition(" ")
        kind = scheme.lower()
        if kind == "bearer" and rest.lower().startswith(sas.SCHEME.lower()):
            kind, text = sas.SCHEME.lower(), rest  # a signature in the place of a token: all some SDKs can send
        if kind == "basic":
            return self.access.by_key(plain.parse_basic(rest))
        if kind == "bearer":
            return self.access.by_token(rest.strip())
        if kind == sas.SCHEME.lower():
            return self.access.by_sas(text, publisher)
        raise NotAuthenticated("this way to sign in is not served")


def _host(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]).removeprefix("::ffff:") if client else ""


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "?"
