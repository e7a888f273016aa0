"""Policies, users and certificates over HTTP: what `gridwire policy` talks to. Takes Manage on the namespace."""

from __future__ import annotations

from typing import Any

import msgspec

from gridwire.auth.model import Quota
from gridwire.broker.identities import Identities
from gridwire.broker.identity_move import IdentityMove
from gridwire.heads.http.request import parse_json


class CreatePolicy(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/policies."""

    name: str
    rights: list[str]
    hub: str | None = None
    group: str | None = None
    bytes_in_s: int = 0
    bytes_out_s: int = 0
    connections: int = 0


class RotateKey(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/policies/{policy}/rotate."""

    key: str = "secondary"


class SetUser(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/users."""

    name: str
    password: str
    policies: list[str]


class SetCertificate(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/certificates. No policies: forget the subject."""

    subject: str
    policies: list[str]


class ExportIdentities(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/identities/export: the public key of the hub it is for (Base64)."""

    recipient: bytes


class ImportIdentities(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/identities/import (Base64)."""

    sealed: bytes


class Policies:
    """What the addresses do; results are plain values for JSON. `who`: whoever asked."""

    def __init__(self, access: Identities) -> None:
        self._access = access
        self._move = IdentityMove(access)

    def list(self) -> dict[str, Any]:
        """Everything known, without secrets."""
        access = self._access
        return {"policies": access.policies(), "users": access.users.shown(), "certificates": access.certificates()}

    async def create(self, who: str, body: bytes) -> dict[str, Any]:
        """Make a policy; the only answer with its keys."""
        wanted = parse_json(body, CreatePolicy)
        quota = Quota(wanted.bytes_in_s, wanted.bytes_out_s, wanted.connections)
        return await self._access.create_policy(who, wanted.name, wanted.rights, wanted.hub, wanted.group, quota)

    async def rotate(self, who: str, name: str, body: bytes) -> dict[str, Any]:
        """Make one of a policy's keys anew."""
        return await self._access.rotate(who, name, parse_json(body or b"{}", RotateKey).key)

    async def delete(self, who: str, name: str) -> None:
        """Forget a policy."""
        await self._access.delete_policy(who, name)

    async def set_user(self, who: str, body: bytes) -> dict[str, Any]:
        """Make or change a user."""
        wanted = parse_json(body, SetUser)
        await self._access.users.set(who, wanted.name, wanted.password, wanted.policies)
        return {"user": wanted.name, "policies": wanted.policies}

    async def delete_user(self, who: str, name: str) -> None:
        """Forget a user."""
        await self._access.users.delete(who, name)

    async def set_certificate(self, who: str, body: bytes) -> dict[str, Any]:
        """Say whose policies a certificate carries."""
        wanted = parse_json(body, SetCertificate)
        await self._access.set_certificate(who, wanted.subject, wanted.policies)
        return {"subject": wanted.subject, "policies": wanted.policies}

    def recipient(self) -> dict[str, Any]:
        """The public key that identities for this hub are sealed with."""
        return {"recipient": self._move.recipient()}

    async def export(self, who: str, body: bytes) -> dict[str, Any]:
        """Everything known, keys included, for one other hub only."""
        return {"sealed": await self._move.export(who, parse_json(body, ExportIdentities).recipient)}

    async def take(self, who: str, body: bytes) -> dict[str, int]:
        """Add what another hub exported for this one."""
        return await self._move.take(who, parse_json(body, ImportIdentities).sealed)
