"""A box that anybody can shut and only one hub can open: how keys of policies travel from hub to hub.

    key of the hub      X25519, derived from its secret by HKDF-SHA256; only the public half leaves it
    shut box            public key of a key pair made for this one box || AES-256-GCM ciphertext

The cipher's key comes from both key pairs and is used once, so its nonce may be constant. This is the construction of
HPKE's base mode (RFC 9180) with the same parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gridwire.core.errors import InvalidSetting

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

PUBLIC_BYTES: Final = 32
_NONCE: Final = bytes(12)
_OWN: Final = b"gridwire box: key of a hub"
_ONCE: Final = b"gridwire box: cipher"


def public_key(secret: bytes) -> bytes:
    """What others shut boxes for the holder of `secret` with."""
    return _private(secret).public_key().public_bytes_raw()


def shut(recipient: bytes, content: bytes) -> bytes:
    """A box for whoever has the secret of a public key. Raises InvalidSetting: that is no public key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    once = X25519PrivateKey.generate()
    public = once.public_key().public_bytes_raw()
    return public + AESGCM(_shared(once, recipient, public + recipient)).encrypt(_NONCE, content, public)


def opened(secret: bytes, box: bytes) -> bytes:
    """The content. Raises InvalidSetting: it was shut for somebody else, or is damaged."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    private = _private(secret)
    public, ciphertext = box[:PUBLIC_BYTES], box[PUBLIC_BYTES:]
    salt = public + private.public_key().public_bytes_raw()
    try:
        return AESGCM(_shared(private, public, salt)).decrypt(_NONCE, ciphertext, public)
    except InvalidTag:
        raise InvalidSetting("this was sealed for another hub, or is damaged: export it again") from None


def _private(secret: bytes) -> X25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(_derived(secret, b"", _OWN))


def _shared(private: X25519PrivateKey, public: bytes, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        return _derived(private.exchange(X25519PublicKey.from_public_bytes(public)), salt, _ONCE)
    except ValueError:
        raise InvalidSetting("that is no public key of a hub") from None


def _derived(material: bytes, salt: bytes, use: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), PUBLIC_BYTES, salt, use).derive(material)
