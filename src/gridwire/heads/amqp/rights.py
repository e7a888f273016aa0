"""Who a connection belongs to: by SASL, by its certificate, and by the tokens put to `$cbs`, each for its audience."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gridwire.auth import plain, sas
from gridwire.auth.model import Action, Identity, allowed
from gridwire.broker.identities import Identities, Usage
from gridwire.core.errors import NotAuthenticated
from gridwire.heads.tls import certificate_names

TOKENS_MAX: Final = 1024
"""Audiences of one connection."""


class Keyring:
    """Identities of one connection of a hub with sign-in."""

    def __init__(self, access: Identities, peer: str, certificate: dict[str, Any] | None) -> None:
        self.access = access
        self.peer = peer
        self._host = peer.rpartition(":")[0]
        self._generation = access.generation
        self._own: Identity | None = access.by_certificate(certificate_names(certificate)) if certificate else None
        self._tokens: dict[str, Identity] = {}
        self._counted: Usage | None = None

    @property
    def certified(self) -> bool:
        """Whether the client's certificate says who it is."""
        return self._own is not None

    def sign_in_plain(self, message: bytes) -> None:
        """SASL PLAIN with a policy's name and key. Raises NotAuthenticated."""
        self._own = self._noted("PLAIN", lambda: self.access.by_key(plain.parse_plain(message)))

    def put_token(self, audience: str, kind: str, token: str) -> None:
        """A token for an audience. Raises NotAuthenticated."""
        if kind.endswith("jwt"):
            identity = self._noted("jwt", lambda: self.access.by_token(token))
        else:
            identity = self._noted("sas", lambda: self.access.by_sas(token))
        if audience not in self._tokens and len(self._tokens) >= TOKENS_MAX:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[audience] = identity

    def _noted(self, how: str, check: Any) -> Identity:
        try:
            identity: Identity = check()
        except NotAuthenticated as error:
            self.access.audit.failed("?", "sign-in", self.peer, f"amqp {how}: {error}")
            raise
        self._count(identity)
        return identity

    def _count(self, identity: Identity) -> None:
        """A place among the connections of the identity. Raises NotAuthenticated when there is none."""
        usage = self.access.usage(identity)
        if usage is None or self._counted is not None:
            return
        if identity.quota.connections and usage.connections >= identity.quota.connections:
            raise NotAuthenticated(f"{identity.name} has as many connections as it may")
        usage.connections += 1
        self._counted = usage

    def close(self) -> None:
        """Give the place back."""
        if self._counted is not None:
            self._counted.connections -= 1
            self._counted = None

    def may(self, *needs: tuple[Action, str]) -> bool:
        """Whether one of the identities may do all of this now."""
        return any(self.grants(identity, *needs) for identity in self._current())

    def grants(self, identity: Identity, *needs: tuple[Action, str]) -> bool:
        """Whether an identity may do all of this from where the peer is."""
        return all(allowed(identity, action, name, self._host) for action, name in needs)

    def _current(self) -> Iterator[Identity]:
        """Identities that are still good: a policy may be gone, a token over."""
        if self._generation != self.access.generation:
            self._generation = self.access.generation
            self._own = self.access.renew(self._own) if self._own is not None else None
            renewed = {audience: self.access.renew(identity) for audience, identity in self._tokens.items()}
            self._tokens = {audience: identity for audience, identity in renewed.items() if identity is not None}
        now_s = self.access.now_s()
        for identity in (self._own, *self._tokens.values()):
            if identity is not None and not identity.expired(now_s):
                yield identity

    def used(self, bytes_in: int, bytes_out: int) -> float:
        """Charge what moved; returns the seconds to wait before more may."""
        if self._counted is None:
            return 0.0
        now_s = self.access.monotonic()
        return max(self._counted.inbound.take(bytes_in, now_s), self._counted.outbound.take(bytes_out, now_s))


def token_of(text: str, keyring: Keyring) -> Identity:
    """The identity of a token in a request of its own (`security_token` of `$management`). Raises NotAuthenticated."""
    if text.lower().startswith(sas.SCHEME.lower()):
        return keyring.access.by_sas(text)
    return keyring.access.by_token(text)
