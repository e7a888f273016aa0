"""SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677): the server's side as a state machine, and its verifiers.

What is kept of a password is salt, iterations, StoredKey and ServerKey: enough to check a client, not to be one. A
policy has two keys; both verifiers share salt and iterations, because the server must tell those before it knows which
of the two the client holds. For an unknown name the exchange goes on with a made-up salt and fails at its end, as a
wrong password does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gridwire.core.errors import InvalidSetting, NotAuthenticated

ITERATIONS: Final = 4096
ITERATIONS_MAX: Final = 16_384
"""Kafka's own bounds; each sign-in costs the client so many."""

SALT_BYTES: Final = 16
SALT_BYTES_MAX: Final = 256
MESSAGE_BYTES_MAX: Final = 4096
HASHES: Final = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}

_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,256}\Z")
_BAD: Final = "the SCRAM message is malformed"


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is kept of one password for one mechanism."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


def make_verifier(mechanism: str, password: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
    """The verifier of a password."""
    return _verifier(
        mechanism, hashlib.pbkdf2_hmac(HASHES[mechanism], password.encode(), salt, iterations), salt, iterations
    )


def verifier_of(mechanism: str, salted: bytes, salt: bytes, iterations: int) -> Verifier:
    """The verifier of a password that somebody else salted. Raises InvalidSetting."""
    if not ITERATIONS <= iterations <= ITERATIONS_MAX:
        raise InvalidSetting(f"a password is salted with {ITERATIONS} to {ITERATIONS_MAX} iterations, not {iterations}")
    if not 1 <= len(salt) <= SALT_BYTES_MAX or len(salted) != hashlib.new(HASHES[mechanism]).digest_size:
        raise InvalidSetting(f"the salt or the salted password does not fit {mechanism}")
    return _verifier(mechanism, salted, salt, iterations)


def _verifier(mechanism: str, salted: bytes, salt: bytes, iterations: int) -> Verifier:
    name = HASHES[mechanism]
    client_key = hmac.digest(salted, b"Client Key", name)
    return Verifier(salt, iterations, hashlib.new(name, client_key).digest(), hmac.digest(salted, b"Server Key", name))


def unknown_verifier(mechanism: str, user: str, secret: bytes) -> Verifier:
    """A verifier nobody satisfies, with the same salt whenever the same name is tried."""
    salt = hmac.digest(secret, user.encode("utf-8", "surrogatepass"), "sha256")[:SALT_BYTES]
    size = hashlib.new(HASHES[mechanism]).digest_size
    return Verifier(salt, ITERATIONS, bytes(size), bytes(size))


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """First message of a client. `header` is its GS2 header, `bare` what follows."""

    user: str
    nonce: str
    header: str
    bare: str


def parse_client_first(message: bytes) -> ClientFirst:
    """Raises NotAuthenticated."""
    text = _text(message)
    flag, _, rest = text.partition(",")
    acting_as, _, bare = rest.partition(",")
    if flag not in ("n", "y"):
        raise NotAuthenticated("SCRAM channel binding is not served" if flag.startswith("p=") else _BAD)
    fields = bare.split(",")
    if len(fields) < 2 or not fields[0].startswith("n=") or not fields[1].startswith("r="):
        raise NotAuthenticated(_BAD)
    user, nonce = _name(fields[0][2:]), fields[1][2:]
    if acting_as and (not acting_as.startswith("a=") or _name(acting_as[2:]) != user):
        raise NotAuthenticated("acting as somebody else is not served")
    if not _NONCE.match(nonce) or any(field[:2] == "m=" for field in fields[2:]):
        raise NotAuthenticated(_BAD)
    return ClientFirst(user, nonce, f"{flag},{acting_as},", bare)


def _text(message: bytes) -> str:
    if len(message) > MESSAGE_BYTES_MAX:
        raise NotAuthenticated(_BAD)
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise NotAuthenticated(_BAD) from None


def _name(text: str) -> str:
    """A name with `=2C` and `=3D` undone."""
    if re.search(r"=(?!2C|3D)", text) or not text:
        raise NotAuthenticated(_BAD)
    return text.replace("=2C", ",").replace("=3D", "=")


class ScramServer:
    """One exchange, after the client's first message was read and its user looked up."""

    def __init__(self, mechanism: str, first: ClientFirst, verifiers: Sequence[Verifier], nonce: str) -> None:
        self._hash = HASHES[mechanism]
        self._first = first
        self._verifiers = verifiers
        self._nonce = first.nonce + nonce
        known = verifiers[0]
        salt = base64.b64encode(known.salt).decode()
        self.server_first = f"r={self._nonce},s={salt},i={known.iterations}".encode()

    def finish(self, message: bytes) -> tuple[int, bytes]:
        """(index of the verifier that fits, the server's final message). Raises NotAuthenticated."""
        text = _text(message)
        without_proof, separator, proof_text = text.rpartition(",p=")
        fields = without_proof.split(",")
        if not separator or len(fields) < 2:
            raise NotAuthenticated(_BAD)
        binding = base64.b64encode(self._first.header.encode()).decode()
        if fields[0] != f"c={binding}" or fields[1] != f"r={self._nonce}":
            raise NotAuthenticated(_BAD)
        try:
            proof = base64.b64decode(proof_text, validate=True)
        except binascii.Error:
            raise NotAuthenticated(_BAD) from None
        signed = b",".join((self._first.bare.encode(), self.server_first, without_proof.encode()))
        found = None
        for index, verifier in enumerate(self._verifiers):
            if self._fits(verifier, signed, proof):
                found = index
        if found is None:
            raise NotAuthenticated("name or password is wrong")
        answer = hmac.digest(self._verifiers[found].server_key, signed, self._hash)
        return found, b"v=" + base64.b64encode(answer)

    def _fits(self, verifier: Verifier, signed: bytes, proof: bytes) -> bool:
        signature = hmac.digest(verifier.stored_key, signed, self._hash)
        if len(proof) != len(signature):
            return False
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        return hmac.compare_digest(hashlib.new(self._hash, client_key).digest(), verifier.stored_key)
