"""Signing in to a Kafka broker with SASL, without I/O: requests to send, answers to take.

signing = SignIn(address, where)
while signing.request is not None:
    signing.take(answer to signing.request)
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import Any, Final

from gridwire.auth.scram import ScramClient
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.core.errors import NotAuthenticated
from gridwire.wire.kafka.compiler import Struct

SASL_HANDSHAKE: Final = 17
SASL_AUTHENTICATE: Final = 36

Request = tuple[int, dict[str, Any]]
"""API key and body."""


class SignIn:
    """See the module. `take` may be slow, for SCRAM hashes thousands of times.

    Raises:
        NotAuthenticated: the broker refuses, or cannot prove that it knows the password.
    """

    def __init__(self, address: KafkaAddress, where: str) -> None:
        self.session_s = 0.0
        """How long the broker lets us stay; 0 for as long as we like."""
        self._where = where
        self._steps = self._run(address)
        self.request: Request | None = next(self._steps)

    def take(self, answer: Struct) -> None:
        """Take the answer to `request`; the next one is there then, or None when we are in."""
        try:
            self.request = self._steps.send(answer)
        except StopIteration:
            self.request = None

    def _run(self, address: KafkaAddress) -> Generator[Request, Struct, None]:
        told = yield SASL_HANDSHAKE, {"Mechanism": address.sasl}
        if told["ErrorCode"]:
            known = ", ".join(told["Mechanisms"])
            raise NotAuthenticated(f"Kafka broker {self._where} takes {known}, not {address.sasl}")
        if address.sasl == "PLAIN":
            yield from self._token(f"\0{address.user}\0{address.password}".encode())
            return
        scram = ScramClient(address.sasl, address.user, address.password, secrets.token_urlsafe(24))
        challenge = yield from self._token(scram.first)
        scram.check((yield from self._token(scram.final(challenge))))

    def _token(self, token: bytes) -> Generator[Request, Struct, bytes]:
        told = yield SASL_AUTHENTICATE, {"AuthBytes": token}
        if told["ErrorCode"]:
            reason = told["ErrorMessage"] or "it does not say why"
            raise NotAuthenticated(f"Kafka broker {self._where} does not let us in: {reason}")
        self.session_s = told["SessionLifetimeMs"] / 1000
        return bytes(told["AuthBytes"])
