"""Shared access signatures, as Event Hubs clients make them.

    SharedAccessSignature sr=<resource>&sig=<signature>&se=<expiry>&skn=<policy>

The signature is HMAC-SHA256, keyed with the policy's key as text, over the resource as the client encoded it, a
newline, and the expiry in seconds. Clients encode the resource differently; it is checked as it came, and in the
encodings they are known to sign.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, quote_plus, unquote

from gridwire.core.errors import NotAuthenticated

SCHEME: Final = "SharedAccessSignature"
TOKEN_CHARS_MAX: Final = 8192
_FIELDS: Final = frozenset({"sr", "sig", "se", "skn"})
_EXPIRY = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?\Z")
_ESCAPE = re.compile(r"%[0-9A-F]{2}")
_URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/]*")
_BAD: Final = "the shared access signature is malformed"


@dataclass(frozen=True, slots=True)
class SasToken:
    """A token taken apart. `hub` is None when it is for the whole namespace, `publisher` when it is for all of them."""

    policy: str
    resource_text: str
    hub: str | None
    publisher: str | None
    signature: bytes
    expiry_text: str
    expires_s: float


def parse(text: str) -> SasToken:
    """Take a token apart. Raises NotAuthenticated."""
    scheme, _, rest = text.partition(" ")
    if scheme.lower() != SCHEME.lower() or len(text) > TOKEN_CHARS_MAX:
        raise NotAuthenticated(_BAD)
    values: dict[str, str] = {}
    for part in rest.strip().split("&"):
        name, _, value = part.partition("=")
        if name in values or name not in _FIELDS:
            raise NotAuthenticated(_BAD)
        values[name] = value
    if len(values) != len(_FIELDS) or not _EXPIRY.match(values["se"]):
        raise NotAuthenticated(_BAD)
    try:
        signature = base64.b64decode(unquote(values["sig"], errors="strict"), validate=True)
        policy, resource = unquote(values["skn"], errors="strict"), unquote(values["sr"], errors="strict")
    except ValueError:
        raise NotAuthenticated(_BAD) from None
    hub, publisher = _meant(resource)
    return SasToken(policy, values["sr"], hub, publisher, signature, values["se"], float(values["se"]))


def hub_of(resource: str) -> str | None:
    """The hub a resource address means; None for the namespace. Raises NotAuthenticated."""
    return _meant(resource)[0]


def _meant(resource: str) -> tuple[str | None, str | None]:
    """Hub and publisher a resource address means.

    Both `https://host/v1/hubs/NAME/...`, as our HTTP API has it, and `sb://host/NAME/...`, as Event Hubs has it.

    Raises:
        NotAuthenticated: it means neither.
    """
    match = _URI.match(resource)
    if match is None or "%" in resource or ("://" not in resource and "/" not in resource):
        raise NotAuthenticated("the shared access signature is for something that is no address")
    path = resource[match.end() :]
    segments = [segment for segment in path.split("/") if segment]
    if segments[:1] == ["v1"]:
        if len(segments) > 1 and segments[1] != "hubs":
            raise NotAuthenticated("the shared access signature is for an address that is no hub")
        segments = segments[2:]
    of_one = len(segments) > 2 and segments[1].lower() == "publishers"
    return segments[0] if segments else None, segments[2] if of_one else None


def verify(token: SasToken, keys: Iterable[str], now_s: float) -> str | None:
    """The key that made the token, or None when none did or its time is up."""
    found = None
    for key in keys:
        for text in _encodings(token.resource_text):
            if hmac.compare_digest(_signature(text, token.expiry_text, key), token.signature):
                found = key
    return found if now_s < token.expires_s else None


def _encodings(text: str) -> list[str]:
    """The resource as clients may have signed it.

    Each must decode to what the token itself decodes to, or a token could be re-encoded to mean more than was signed.
    """
    plain = unquote(text)
    full = quote(plain, safe="")
    lower = _ESCAPE.sub(lambda match: match[0].lower(), full)
    forms = dict.fromkeys((text, full, lower, quote_plus(plain), plain))
    return [form for form in forms if unquote(form) == plain]


def _signature(resource: str, expiry: str, key: str) -> bytes:
    text = f"{resource}\n{expiry}".encode("utf-8", "surrogatepass")
    return hmac.new(key.encode(), text, hashlib.sha256).digest()


def sign(resource: str, policy: str, key: str, expires_s: int) -> str:
    """A token for a resource, as our own command line and tests make it."""
    encoded = quote_plus(resource)
    signature = base64.b64encode(_signature(encoded, str(expires_s), key)).decode()
    return f"{SCHEME} sr={encoded}&sig={quote_plus(signature)}&se={expires_s}&skn={quote_plus(policy)}"
