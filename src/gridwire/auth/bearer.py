"""JSON Web Tokens: which are believed, and whose policies they stand for.

A token must be signed with an algorithm of the list by a key of the issuer's set, name issuer and audience as
configured, be within its times, and say whose policies it carries. Unsigned tokens and shared-secret algorithms are
refused: a public key must never be taken for a secret.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridwire.core.errors import InvalidSetting, NotAuthenticated

if TYPE_CHECKING:  # imported when the first token comes: a hub without an issuer starts a tenth of a second sooner
    from joserfc.jwk import KeySet

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
TOKEN_CHARS_MAX: Final = 16 * 1024
CLOCK_SKEW_S: Final = 30
KEYS_MAX: Final = 64
_BAD: Final = "the token is not valid here"

OAUTH_SEPARATOR: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class BearerRules:
    """What a token must say. `claim`: where the names of policies are found; a list, or names between spaces."""

    issuer: str
    audience: str
    claim: str = "roles"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token speaks of."""

    name: str
    policies: tuple[str, ...]
    expires_s: float


def parse_key_set(document: Any) -> KeySet:
    """A JWKS document. Raises InvalidSetting."""
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise InvalidSetting("the JWKS is not an object with a list of keys")
    if len(document["keys"]) > KEYS_MAX:
        raise InvalidSetting(f"the JWKS has more than {KEYS_MAX} keys")
    wanted = [key for key in document["keys"] if isinstance(key, dict) and key.get("kty") in ("RSA", "EC", "OKP")]
    try:
        return KeySet.import_key_set({"keys": wanted})
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise InvalidSetting(f"the JWKS has a key that cannot be read: {error}") from None


def verify(text: str, keys: KeySet, rules: BearerRules, now_s: float) -> Subject:
    """Whom a token speaks of. Raises NotAuthenticated."""
    from joserfc import jwt
    from joserfc.errors import JoseError, SecurityWarning

    if len(text) > TOKEN_CHARS_MAX or text.count(".") != 2:
        raise NotAuthenticated(_BAD)
    try:
        with warnings.catch_warnings():  # EdDSA's older name, which issuers go on using
            warnings.simplefilter("ignore", SecurityWarning)
            token = jwt.decode(text, keys, algorithms=list(ALGORITHMS))
    except (JoseError, ValueError, TypeError, KeyError, RecursionError, AttributeError):
        raise NotAuthenticated(_BAD) from None
    claims = token.claims
    if not isinstance(claims, dict) or token.header.get("crit"):
        raise NotAuthenticated(_BAD)
    expires_s = _times(claims, now_s)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if claims.get("iss") != rules.issuer or rules.audience not in audiences:
        raise NotAuthenticated(_BAD)
    name = claims.get("sub")
    if not isinstance(name, str) or not name:
        raise NotAuthenticated(_BAD)
    return Subject(name, _policies(claims.get(rules.claim)), expires_s)


def _times(claims: dict[str, Any], now_s: float) -> float:
    expires_s, from_s = _second(claims.get("exp")), _second(claims.get("nbf", 0))
    if now_s >= expires_s or now_s + CLOCK_SKEW_S < from_s:
        raise NotAuthenticated(_BAD)
    return expires_s


def _second(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e12:
        raise NotAuthenticated(_BAD)
    return float(value)


def _policies(value: Any) -> tuple[str, ...]:
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list):
        return ()
    return tuple(name for name in names if isinstance(name, str))


def parse_oauthbearer(message: bytes) -> str:
    """The token of a SASL OAUTHBEARER message (RFC 7628). Raises NotAuthenticated."""
    parts = message.split(OAUTH_SEPARATOR)
    if len(message) > 2 * TOKEN_CHARS_MAX or not parts[0].startswith((b"n,", b"y,")) or parts[-2:] != [b"", b""]:
        raise NotAuthenticated("the OAUTHBEARER message is malformed")
    for part in parts[1:-2]:
        name, _, value = part.partition(b"=")
        scheme, _, token = value.partition(b" ")
        if name == b"auth" and scheme.lower() == b"bearer":
            return token.strip().decode("ascii", "replace")
    raise NotAuthenticated("the OAUTHBEARER message has no bearer token")
