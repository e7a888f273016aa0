"""Users with a password of their own, in the control journal. Only verifiers are kept; the password is nowhere.

    identity/user/<name>            UserRecord: policies, SCRAM verifiers by mechanism

They are made with a password (`gridwire policy user`) or with what Kafka's tools send: a salted password, of which the
verifier is computed at once. A user made by those has no rights until a policy or an access control list gives some.
"""

from __future__ import annotations

import asyncio
import os
import urllib.parse
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gridwire.auth import scram
from gridwire.broker.audit import Audit
from gridwire.broker.control import Changes, follow, pack
from gridwire.broker.port import Journal
from gridwire.core.errors import InvalidSetting
from gridwire.core.limits import check_name

PASSWORD_CHARS_MIN: Final = 12
NAME_CHARS_MAX: Final = 1024
_PREFIX: Final = "identity/user/"


class ScramRecord(msgspec.Struct, frozen=True, array_like=True):
    """Verifiers of one mechanism: (stored key, server key) of each password."""

    salt: bytes
    iterations: int
    pairs: list[tuple[bytes, bytes]]

    def verifiers(self) -> list[scram.Verifier]:
        """As the exchange wants them."""
        return [scram.Verifier(self.salt, self.iterations, stored, server) for stored, server in self.pairs]


class UserRecord(msgspec.Struct, frozen=True):
    """A user as the journal keeps it."""

    policies: list[str]
    scram: dict[str, ScramRecord]


@dataclass(frozen=True, slots=True)
class SaltedPassword:
    """What Kafka's tools send in place of a password (KIP-554)."""

    salt: bytes
    iterations: int
    salted: bytes


Alteration = Mapping[str, SaltedPassword | None]
"""Of one user: by mechanism what it becomes; None takes the mechanism away."""


class UnknownCredential(InvalidSetting):
    """There is nothing of that user and mechanism to take away."""


class Users:
    """See the module. `policies`: their names, which no user may take."""

    def __init__(
        self,
        journal: Journal,
        audit: Audit,
        policies: Container[str],
        changed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._audit = audit
        self._policies = policies
        self._changed = changed
        self._records: dict[str, UserRecord] = {}

    def open(self) -> None:
        """Read what is known, and follow it."""
        follow(self._journal, _PREFIX, self._take)

    def _take(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._records.pop(urllib.parse.unquote(key), None)
        else:
            self._records[urllib.parse.unquote(key)] = msgspec.msgpack.decode(value, type=UserRecord)
        self._changed()

    def get(self, name: str) -> UserRecord | None:
        """A user, if there is one of that name."""
        return self._records.get(name)

    def shown(self) -> list[dict[str, Any]]:
        """Users and their policies."""
        return [{"user": name, "policies": record.policies} for name, record in sorted(self._records.items())]

    def mechanisms(self) -> dict[str, dict[str, int]]:
        """Iterations by user and mechanism."""
        return {
            name: {mechanism: each.iterations for mechanism, each in sorted(record.scram.items())}
            for name, record in sorted(self._records.items())
        }

    async def set(self, who: str, name: str, password: str, policies: Sequence[str]) -> None:
        """Make or change a user, from a password. Raises InvalidSetting, InvalidName."""
        check_name(name, "user")
        if len(password) < PASSWORD_CHARS_MIN:
            raise InvalidSetting(f"a password has at least {PASSWORD_CHARS_MIN} characters")
        made = await asyncio.to_thread(scram_records, (password,))

        def decide() -> Changes:
            self._check_policies(policies)
            self._check_name(name)
            return _entry(name, UserRecord(list(policies), made))

        await self._journal.update(decide)
        self._audit.record(who, "user.set", name, policies=list(policies))

    async def delete(self, who: str, name: str) -> None:
        """Forget a user. Raises InvalidSetting."""

        def decide() -> Changes:
            if name not in self._records:
                raise InvalidSetting(f"there is no user {name!r}")
            return _entry(name, None)

        await self._journal.update(decide)
        self._audit.record(who, "user.delete", name)

    async def alter(self, who: str, name: str, alteration: Alteration, peer: str = "") -> None:
        """Set or take away single mechanisms; a user without any is forgotten. All of it or nothing.

        Raises:
            InvalidSetting: the name is a policy's, or what was sent is no salted password. UnknownCredential.
        """
        made = {each: None if sent is None else _record_of(each, sent) for each, sent in alteration.items()}

        def decide() -> Changes:
            self._check_name(name)
            before = self._records.get(name)
            kept = {} if before is None else dict(before.scram)
            for mechanism, record in made.items():
                if record is not None:
                    kept[mechanism] = record
                elif kept.pop(mechanism, None) is None:
                    raise UnknownCredential(f"user {name[:80]!r} has no {mechanism} password")
            return _entry(name, UserRecord([] if before is None else before.policies, kept) if kept else None)

        await self._journal.update(decide)
        for mechanism, record in made.items():
            self._audit.record(who, "user.unset" if record is None else "user.set", name, scram=mechanism, peer=peer)

    def _check_name(self, name: str) -> None:
        if not 1 <= len(name) <= NAME_CHARS_MAX:
            raise InvalidSetting(f"a user's name has 1 to {NAME_CHARS_MAX} characters")
        if name in self._policies:
            raise InvalidSetting(f"{name!r} is a policy: it signs in with its own keys")

    def _check_policies(self, names: Sequence[str]) -> None:
        for policy in names:
            if policy not in self._policies:
                raise InvalidSetting(f"there is no policy {policy[:80]!r}: see `gridwire policy list`")


def _entry(name: str, record: UserRecord | None) -> Changes:
    return {_PREFIX + urllib.parse.quote(name, safe=""): None if record is None else pack(record)}


def _record_of(mechanism: str, sent: SaltedPassword) -> ScramRecord:
    made = scram.verifier_of(mechanism, sent.salted, sent.salt, sent.iterations)
    return ScramRecord(made.salt, made.iterations, [(made.stored_key, made.server_key)])


def scram_records(passwords: Sequence[str], random: Callable[[int], bytes] = os.urandom) -> dict[str, ScramRecord]:
    """Verifiers of every mechanism for some passwords, which share a salt."""
    records = {}
    for mechanism in scram.HASHES:
        salt = random(scram.SALT_BYTES)
        made = [scram.make_verifier(mechanism, password, salt) for password in passwords]
        records[mechanism] = ScramRecord(salt, scram.ITERATIONS, [(each.stored_key, each.server_key) for each in made])
    return records
