"""A policy's key as the token credential some of Azure's SDKs insist on, the schema registry's among them."""

from __future__ import annotations

import time
from typing import Any, Final

from azure.core.credentials import AccessToken

from gridwire.address import signature
from gridwire.auth.plain import ConnectionString, parse_connection_string

VALID_S: Final = 3600


class KeyCredential:
    """Signs instead of asking Entra ID: the token is a shared access signature, which the hub takes as a bearer token.

    Args:
        connection_string: `Endpoint=sb://..;SharedAccessKeyName=..;SharedAccessKey=..`.
    """

    def __init__(self, connection_string: str) -> None:
        self._key = parse_connection_string(connection_string)

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        """A fresh signature, good for an hour."""
        return _token(self._key)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> KeyCredential:
        return self

    def __exit__(self, *details: object) -> None:
        return None


class AsyncKeyCredential:
    """As `KeyCredential`, for asyncio."""

    def __init__(self, connection_string: str) -> None:
        self._key = parse_connection_string(connection_string)

    async def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        """A fresh signature, good for an hour."""
        return _token(self._key)

    async def close(self) -> None:
        """Nothing is held open."""

    async def __aenter__(self) -> AsyncKeyCredential:
        return self

    async def __aexit__(self, *details: object) -> None:
        return None


def _token(key: ConnectionString) -> AccessToken:
    expires_s = int(time.time()) + VALID_S
    return AccessToken(signature(key, key.endpoint.rstrip("/"), expires_s), expires_s)
