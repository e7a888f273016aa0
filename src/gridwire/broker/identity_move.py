"""Policies, users, certificates, quotas and access control lists on their way from one hub to another.

Keys of policies lie sealed under the key file of their hub, which never leaves it. Whoever has Manage on both asks the
new hub for its public key, the old one for everything in a box shut with it, and hands that over; the new hub opens it
and seals the keys under its own key file. So keys are in the clear in the memory of the two hubs only. Verifiers and
everything else travel as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gridwire.auth import box
from gridwire.auth.keys import Sealer
from gridwire.auth.model import Policy, Right
from gridwire.broker.acls import BindingRecord
from gridwire.broker.identities import CertificateRecord, Identities, PolicyRecord
from gridwire.broker.quotas import QuotaRecord
from gridwire.broker.users import UserRecord
from gridwire.core.errors import GridwireError, InvalidSetting

PREFIX: Final = "identity/"
_KINDS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "policy": PolicyRecord, "user": UserRecord, "certificate": CertificateRecord, "quota": QuotaRecord,
    "acl": BindingRecord,
}  # fmt: skip


class IdentityMove:
    """Exports and imports what a hub knows of who may do what. `access` is open."""

    def __init__(self, access: Identities) -> None:
        self._access = access
        self._journal = access.journal
        self._secret = access.secret
        self._sealer = Sealer(access.secret)

    def recipient(self) -> bytes:
        """The public key that a box for this hub is shut with."""
        return box.public_key(self._secret)

    async def export(self, who: str, recipient: bytes) -> bytes:
        """Everything in a box for the hub with that public key. Raises InvalidSetting: it is none."""
        entries = {}
        for name, value in self._journal.kept(PREFIX):
            kind, _, rest = name.partition("/")
            entries[name] = self._with_keys(rest, value, self._unsealed) if kind == "policy" else value
        shut = await asyncio.to_thread(box.shut, recipient, msgspec.msgpack.encode(entries))
        self._access.audit.record(who, "identities.export", recipient.hex(), entries=len(entries))
        return shut

    async def take(self, who: str, shut: bytes) -> dict[str, int]:
        """Add what is in a box, in place of what has the same names; durable when it returns. Counts by kind.

        Raises:
            InvalidSetting: it is for another hub, damaged, or does not go with what is here.
        """
        content = await asyncio.to_thread(box.opened, self._secret, shut)
        try:
            entries = msgspec.msgpack.decode(content, type=dict[str, bytes])
            counts = dict.fromkeys(_KINDS, 0)
            for name, value in entries.items():
                counts[self._checked(name, value)] += 1
        except (msgspec.MsgspecError, KeyError, ValueError):
            raise InvalidSetting("the box holds what this version does not know: use the same version") from None
        changes: dict[str, bytes | None] = {}
        for name, value in entries.items():
            kind, _, rest = name.partition("/")
            changes[PREFIX + name] = self._with_keys(rest, value, self._resealed) if kind == "policy" else value

        def decide() -> Mapping[str, bytes | None]:
            for name, value in entries.items():  # once more: somebody may have made a user of a policy's name
                self._checked(name, value)
            return changes

        await self._access.replace(decide)
        self._access.audit.record(who, "identities.import", "", **counts)
        return counts

    def _checked(self, name: str, value: bytes) -> str:
        """An entry's kind, when it is one that would be taken as it is. Raises InvalidSetting."""
        kind, _, rest = name.partition("/")
        record: Any = msgspec.msgpack.decode(value, type=_KINDS[kind])
        here = {each for each, _ in self._journal.kept(PREFIX)}
        if kind == "policy":
            Policy(rest, Right(record.rights), record.hub, record.group)
            if f"user/{rest}" in here:
                raise InvalidSetting(f"{rest!r} is a policy there and a user here: delete one of them")
        if kind == "user" and f"policy/{rest}" in here:
            raise InvalidSetting(f"{rest!r} is a user there and a policy here: delete one of them")
        if kind == "acl":
            record.binding()
        return kind

    @staticmethod
    def _with_keys(name: str, value: bytes, turned: Any) -> bytes:
        record = msgspec.msgpack.decode(value, type=PolicyRecord)
        primary, secondary = (turned(key, f"{name}/{which}") for key, which in
                              ((record.primary, "primary"), (record.secondary, "secondary")))  # fmt: skip
        return msgspec.msgpack.encode(msgspec.structs.replace(record, primary=primary, secondary=secondary))

    def _unsealed(self, key: bytes, place: str) -> bytes:
        return self._sealer.open(key, place).encode()

    def _resealed(self, key: bytes, place: str) -> bytes:
        try:
            return self._sealer.seal(key.decode(), place)
        except UnicodeDecodeError:
            raise GridwireError(f"{place} is no key") from None
