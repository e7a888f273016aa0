"""Keys of policies: how they are made, compared, and kept.

A SAS token is an HMAC with the key itself, so the hub must be able to read keys. At rest they are sealed with AES-GCM
under a key file of their own, bound to the place they are kept at: a copied journal without that file gives nothing
away, and a sealed key moved to another policy does not open.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from typing import Final

from gridwire.core.errors import GridwireError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12

Random = Callable[[int], bytes]


def new_key(random: Random = secrets.token_bytes) -> str:
    """A key nobody can guess, as clients write it."""
    return base64.b64encode(random(KEY_BYTES)).decode()


def same(left: str | bytes, right: str | bytes) -> bool:
    """Whether two secrets are equal, in a time that tells nothing."""
    return hmac.compare_digest(_bytes(left), _bytes(right))


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def fingerprint(secret: str) -> str:
    """Names a secret without telling it; for noticing that it changed."""
    return hashlib.sha256(_bytes(secret)).hexdigest()[:16]


class Sealer:
    """Seals short secrets under one key of 32 bytes."""

    def __init__(self, key: bytes, random: Random = os.urandom) -> None:
        if len(key) != KEY_BYTES:
            raise GridwireError(f"the key file must hold {KEY_BYTES} bytes: restore it from your backup")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # a hub without sign-in does without it

        self._cipher = AESGCM(key)
        self._random = random

    def seal(self, secret: str, place: str) -> bytes:
        """Nonce and ciphertext."""
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        """The secret.

        Raises:
            GridwireError: the key file is not the one it was sealed with.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode()).decode()
        except (InvalidTag, ValueError):
            raise GridwireError(
                f"{place} does not open with the key file of the data directory: restore that file from "
                "your backup, or copy it from another gateway"
            ) from None
