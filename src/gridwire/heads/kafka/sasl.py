"""Signing in on one connection: SaslHandshake 0 and 1, SaslAuthenticate 0 to 2, and raw tokens after a v0 handshake.

PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER are served. A client that signed in may do so again on the same
connection before its time is up, as itself only. Missing: channel binding, delegation tokens.
"""

from __future__ import annotations

import secrets
from typing import Final

from gridwire.auth import bearer, plain, scram
from gridwire.auth.model import Action, Identity, allowed
from gridwire.broker.identities import Identities
from gridwire.core.errors import NotAuthenticated
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

HANDSHAKE: Final = 17
AUTHENTICATE: Final = 36
API_VERSIONS: Final = 18
OPEN_TO_ALL: Final = frozenset({HANDSHAKE, AUTHENTICATE, API_VERSIONS})
"""What may be asked before signing in."""

PLAIN: Final = "PLAIN"
OAUTHBEARER: Final = "OAUTHBEARER"
MECHANISMS: Final = (PLAIN, *scram.HASHES, OAUTHBEARER)

STRANGER_FRAME_BYTES_MAX: Final = 64 * 1024
"""A request of somebody who has not signed in."""

SIGN_IN_S: Final = 30.0
"""How long a connection may take to sign in."""

_NONCE_BYTES: Final = 24


class Gate:
    """Who a connection belongs to. One per connection of a hub with sign-in.

    Attributes:
        identity: who signed in, if anybody did. host: the address the connection comes from.
        raw: tokens come without Kafka's framing, after a v0 handshake.
        failed: the last attempt failed; the connection ends once that is answered.
    """

    __slots__ = (
        "_exchange",
        "_first",
        "_generation",
        "_mechanism",
        "access",
        "failed",
        "host",
        "identity",
        "peer",
        "raw",
    )

    def __init__(self, access: Identities, peer: str, host: str) -> None:
        self.access = access
        self.peer = peer
        self.host = host
        self.identity: Identity | None = None
        self.raw = False
        self.failed = False
        self._generation = access.generation
        self._mechanism = ""
        self._first: scram.ClientFirst | None = None
        self._exchange: scram.ScramServer | None = None

    def current(self) -> Identity | None:
        """Who the connection belongs to at this moment: a policy may be gone, a token over."""
        identity = self.identity
        if identity is None:
            return None
        if self._generation != self.access.generation:
            self._generation = self.access.generation
            self.identity = identity = self.access.renew(identity)
        if identity is not None and identity.expires_s is not None and identity.expired(self.access.now_s()):
            self.identity = identity = None
        return identity

    def may(self, action: Action, resource: str | None = None) -> bool:
        """Whether whoever it belongs to may do something."""
        identity = self.identity
        return identity is not None and allowed(identity, action, resource, self.host)

    @property
    def sovereign(self) -> bool:
        """Whether whoever it belongs to may do everything."""
        return self.identity is not None and self.identity.sovereign

    def signed_in(self, identity: Identity) -> None:
        """Take somebody who is known by another way than SASL: his certificate."""
        self.identity, self._generation = identity, self.access.generation

    def handshake(self, mechanism: str, version: int) -> Struct:
        """Answer SaslHandshake."""
        self._first = self._exchange = None
        self._mechanism = mechanism if mechanism in MECHANISMS else ""
        if not self._mechanism:
            self.failed = True
            return {"ErrorCode": ErrorCode.UNSUPPORTED_SASL_MECHANISM, "Mechanisms": list(MECHANISMS)}
        self.raw = version == 0
        return {"ErrorCode": ErrorCode.NONE, "Mechanisms": list(MECHANISMS)}

    def authenticate(self, message: bytes) -> Struct:
        """Answer SaslAuthenticate, or a raw token."""
        if not self._mechanism:
            self.failed = True
            return {"ErrorCode": ErrorCode.ILLEGAL_SASL_STATE, "ErrorMessage": "a handshake comes first"}
        try:
            answer, identity = self._step(message)
            if identity is not None:
                self._take(identity)
        except NotAuthenticated as error:
            self._refused(str(error))
            return {"ErrorCode": ErrorCode.SASL_AUTHENTICATION_FAILED, "ErrorMessage": str(error)}
        return {"ErrorCode": ErrorCode.NONE, "AuthBytes": answer, "SessionLifetimeMs": self._lifetime_ms()}

    def _step(self, message: bytes) -> tuple[bytes, Identity | None]:
        """(what the client is answered, who it is once that is known)."""
        if self._mechanism == PLAIN:
            return b"", self.access.by_key(plain.parse_plain(message))
        if self._mechanism == OAUTHBEARER:
            return b"", self.access.by_token(bearer.parse_oauthbearer(message))
        if self._exchange is None or self._first is None:
            first = self._first = scram.parse_client_first(message)
            verifiers = self.access.scram_verifiers(self._mechanism, first.user)
            nonce = secrets.token_urlsafe(_NONCE_BYTES)
            self._exchange = scram.ScramServer(self._mechanism, first, verifiers, nonce)
            return self._exchange.server_first, None
        index, answer = self._exchange.finish(message)
        return answer, self.access.by_scram(self._mechanism, self._first.user, index)

    def _take(self, identity: Identity) -> None:
        before = self.identity
        if before is not None and before.name != identity.name:
            raise NotAuthenticated("a connection cannot change hands: open another")
        self.identity, self._generation = identity, self.access.generation
        self.raw, self._mechanism = False, ""
        self._first = self._exchange = None

    def _refused(self, reason: str) -> None:
        self.failed = True
        self.identity = None
        who = self._first.user if self._first is not None else "?"
        self.access.audit.failed(who, "sign-in", self.peer, f"kafka {self._mechanism}: {reason}")

    def _lifetime_ms(self) -> int:
        identity = self.identity
        if identity is None or identity.expires_s is None:
            return 0
        return max(1, int((identity.expires_s - self.access.now_s()) * 1000))
