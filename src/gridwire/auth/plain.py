"""Names and keys in the clear: SASL PLAIN, HTTP basic, and connection strings. For TLS or loopback only."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from gridwire.core.errors import NotAuthenticated

CONNECTION_STRING_USER: Final = "$ConnectionString"
"""The user name with which Event Hubs clients send a whole connection string as password."""

TEXT_BYTES_MAX: Final = 8192


@dataclass(frozen=True, slots=True)
class NameAndKey:
    """What somebody claims. `hub`: the only hub he asked for, if his connection string names one."""

    name: str
    key: str
    hub: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """`Endpoint=sb://host/;SharedAccessKeyName=..;SharedAccessKey=..[;EntityPath=hub]`"""

    endpoint: str
    name: str
    key: str
    hub: str | None = None

    def __str__(self) -> str:
        entity = f";EntityPath={self.hub}" if self.hub else ""
        return f"Endpoint={self.endpoint};SharedAccessKeyName={self.name};SharedAccessKey={self.key}{entity}"


def parse_connection_string(text: str) -> ConnectionString:
    """Raises NotAuthenticated."""
    values: dict[str, str] = {}
    if len(text) > TEXT_BYTES_MAX:
        raise NotAuthenticated("the connection string is too long")
    for part in text.strip().split(";"):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals or name in values:
            raise NotAuthenticated("the connection string is malformed")
        values[name] = value.strip()
    if not values.get("sharedaccesskeyname") or not values.get("sharedaccesskey"):
        raise NotAuthenticated("the connection string lacks SharedAccessKeyName or SharedAccessKey")
    hub = values.get("entitypath") or None
    return ConnectionString(values.get("endpoint", ""), values["sharedaccesskeyname"], values["sharedaccesskey"], hub)


def parse_plain(message: bytes) -> NameAndKey:
    """A SASL PLAIN message (RFC 4616): `[authzid] NUL name NUL password`. Raises NotAuthenticated."""
    if len(message) > TEXT_BYTES_MAX:
        raise NotAuthenticated("the PLAIN message is too long")
    parts = message.split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise NotAuthenticated("the PLAIN message is malformed")
    try:
        acting_as, name, key = (part.decode() for part in parts)
    except UnicodeDecodeError:
        raise NotAuthenticated("the PLAIN message is not UTF-8") from None
    if acting_as not in ("", name):
        raise NotAuthenticated("acting as somebody else is not served")
    return claimed(name, key)


def parse_basic(value: str) -> NameAndKey:
    """The credentials of an HTTP `Basic` header. Raises NotAuthenticated."""
    if len(value) > 2 * TEXT_BYTES_MAX:
        raise NotAuthenticated("the credentials are too long")
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise NotAuthenticated("the credentials are malformed") from None
    name, colon, key = text.partition(":")
    if not colon or not name or not key:
        raise NotAuthenticated("the credentials are malformed")
    return claimed(name, key)


def claimed(name: str, key: str) -> NameAndKey:
    """Name and key, taken from a connection string where that was sent as the password."""
    if name != CONNECTION_STRING_USER:
        return NameAndKey(name, key)
    found = parse_connection_string(key)
    return NameAndKey(found.name, found.key, found.hub)
