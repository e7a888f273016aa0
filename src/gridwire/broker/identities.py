"""Who is known to the hub: policies, users and certificates in the control journal, and sign-in against them.

    identity/policy/<name>          PolicyRecord: rights, scope, both keys sealed, SCRAM verifiers of both
    identity/certificate/<name>     CertificateRecord: policies of whoever shows a certificate of that CN or SAN

Users are kept by `gridwire.broker.users`, their quotas by `gridwire.broker.quotas`, access control lists by
`gridwire.broker.acls`.

Every method that signs somebody in raises NotAuthenticated, and takes about as long for an unknown name as for a
wrong key.
"""

from __future__ import annotations

import asyncio
import secrets
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from gridwire.auth import bearer, sas, scram
from gridwire.auth.keys import KEY_BYTES, Sealer, fingerprint, new_key, same
from gridwire.auth.model import (
    NO_QUOTA,
    ROOT_POLICY,
    Identity,
    Policy,
    Quota,
    Right,
    parse_rights,
    right_names,
)
from gridwire.auth.plain import ConnectionString, NameAndKey
from gridwire.auth.quota import Bucket
from gridwire.broker.acls import Acls
from gridwire.broker.audit import Audit
from gridwire.broker.control import Changes, follow, pack
from gridwire.broker.issuer_keys import IssuerKeys, KeyAddress
from gridwire.broker.key_file import KEY_FILE, is_there, write_secret
from gridwire.broker.port import Journal
from gridwire.broker.quotas import Quotas
from gridwire.broker.users import ScramRecord, Users, scram_records
from gridwire.core.clock import Clock
from gridwire.core.errors import GridwireError, InvalidSetting, NotAuthenticated

ROOT_FILE: Final = "root.connection-string"
NAME_CHARS_MAX: Final = 1024
WRONG: Final = "name or key is wrong, or its time is up"

_POLICY: Final = "identity/policy/"
_CERTIFICATE: Final = "identity/certificate/"
_T = TypeVar("_T")
log = structlog.get_logger("gridwire.auth")


class PolicyRecord(msgspec.Struct, frozen=True):
    """A policy as the journal keeps it. Keys are sealed, see `gridwire.auth.keys`."""

    rights: int
    hub: str | None
    group: str | None
    primary: bytes
    secondary: bytes
    scram: dict[str, ScramRecord]
    bytes_in_s: int = 0
    bytes_out_s: int = 0
    connections: int = 0
    created_ms: int = 0


class CertificateRecord(msgspec.Struct, frozen=True):
    """Policies of a certificate's subject."""

    policies: list[str]


@dataclass(slots=True)
class _Known:
    """A policy with its keys opened."""

    policy: Policy
    record: PolicyRecord
    keys: tuple[str, str]

    @property
    def quota(self) -> Quota:
        return Quota(self.record.bytes_in_s, self.record.bytes_out_s, self.record.connections)

    def with_quota(self, quota: Quota) -> Changes:
        """What gives the policy another quota."""
        record = msgspec.structs.replace(
            self.record,
            bytes_in_s=quota.bytes_in_s,
            bytes_out_s=quota.bytes_out_s,
            connections=quota.connections,
        )
        return {_POLICY + self.policy.name: pack(record)}


@dataclass(slots=True)
class Usage:
    """What all connections of one identity use together."""

    inbound: Bucket
    outbound: Bucket
    connections: int = 0


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Whose JSON Web Tokens are believed."""

    rules: bearer.BearerRules
    keys: IssuerKeys


class Identities:
    """See the module. `generation` grows with every change, so that heads know when to `renew`."""

    def __init__(
        self,
        broker: Journal,
        directory: Path,
        clock: Clock,
        issuer: TokenIssuer | None = None,
        key_file: Path | None = None,
    ) -> None:
        self.generation = 0
        self.secret = b""
        """What lies in the key file, once opened."""
        self.audit = Audit(broker, clock)
        self.journal = broker
        """Where they are kept."""
        self._directory = directory
        self._key_file = key_file or directory / KEY_FILE
        self._clock = clock
        self._issuer = issuer
        self._policies: dict[str, _Known] = {}
        self._certificates: dict[str, CertificateRecord] = {}
        self._usage: dict[str, Usage] = {}
        self._quotas = Quotas(broker, self._quota_changed)
        self.users = Users(broker, self.audit, self._policies, self._changed)
        self.acls = Acls(broker, self.audit, self._changed)

    def _changed(self) -> None:
        self.generation += 1

    def _quota_changed(self, name: str) -> None:
        self._usage.pop(name, None)
        self._changed()

    async def open(self) -> Path | None:
        """Read what is known; a first start makes the root policy and returns the file its keys are in.

        Raises:
            GridwireError: the key file is missing or another one.
        """
        await self.journal.catch_up()
        path = self._key_file
        if not is_there(path):
            if any(self.journal.kept(_POLICY)):
                raise GridwireError(
                    f"{path} is missing, and the policies' keys do not open without it: "
                    "restore it, or copy it from another gateway"
                )
            write_secret(path, secrets.token_bytes(KEY_BYTES))
        self.secret = path.read_bytes()
        self._sealer = Sealer(self.secret)
        self._decoy = self.secret
        follow(self.journal, _POLICY, self._take_policy)
        self.users.open()
        self._quotas.open()
        self.acls.open()
        follow(self.journal, _CERTIFICATE, self._take_certificate)
        await self.audit.open()
        return None if self._policies else await self._make_root()

    async def _make_root(self) -> Path | None:
        """The root policy, and the file with its keys; of several gateways that start at once, one makes it."""
        policy, keys = Policy(ROOT_POLICY, Right.MANAGE), (new_key(), new_key())
        record = await self._record(policy, keys, NO_QUOTA, self._clock.now_ms())

        def decide() -> Changes:
            return {} if any(self.journal.kept(_POLICY)) else {_POLICY + ROOT_POLICY: pack(record)}

        if not await self.journal.update(decide):
            for name, value in self.journal.kept(_POLICY):
                self._take_policy(name, value)  # raises where the other gateway has another key file
            return None
        self.audit.record("first start", "policy.create", ROOT_POLICY, rights=right_names(policy.rights))
        file = self._directory / ROOT_FILE
        text = str(ConnectionString("sb://localhost/", ROOT_POLICY, keys[0]))
        write_secret(file, text.encode() + b"\n")
        return file

    async def replace(self, decide: Callable[[], Changes]) -> None:
        """Write entries as the journal keeps them: who signed in with what they replace is out."""
        await self.journal.update(decide)
        self._usage.clear()
        self._changed()

    async def close(self) -> None:
        """Stop what runs in the background."""
        if self._issuer is not None and isinstance(self._issuer.keys, KeyAddress):
            await self._issuer.keys.close()

    def _take_certificate(self, key: str, value: bytes | None) -> None:
        subject = urllib.parse.unquote(key)
        if value is None:
            self._certificates.pop(subject, None)
        else:
            self._certificates[subject] = msgspec.msgpack.decode(value, type=CertificateRecord)
        self._changed()

    def _take_policy(self, name: str, value: bytes | None) -> None:
        self._quota_changed(name)
        if value is None:
            self._policies.pop(name, None)
            return
        record = msgspec.msgpack.decode(value, type=PolicyRecord)
        keys = (self._sealer.open(record.primary, f"{name}/primary"),
                self._sealer.open(record.secondary, f"{name}/secondary"))  # fmt: skip
        self._policies[name] = _Known(Policy(name, Right(record.rights), record.hub, record.group), record, keys)

    # -- administration -----------------------------------------------------------------------------------------

    def policies(self) -> list[dict[str, Any]]:
        """Every policy, without its keys."""
        return [_shown(known) for _, known in sorted(self._policies.items())]

    async def create_policy(
        self, who: str, name: str, rights: Iterable[str], hub: str | None = None, group: str | None = None,
        quota: Quota = NO_QUOTA,
    ) -> dict[str, Any]:  # fmt: skip
        """Make a policy and show its keys. Raises InvalidSetting, InvalidName."""
        policy = Policy(name, parse_rights(rights), hub, group)
        if min(quota.bytes_in_s, quota.bytes_out_s, quota.connections) < 0:
            raise InvalidSetting("a quota is 0 (none) or more")
        keys = (new_key(), new_key())
        record = await self._record(policy, keys, quota, self._clock.now_ms())

        def decide() -> Changes:
            if name in self._policies:
                raise InvalidSetting(f"policy {name!r} exists: rotate its keys or delete it")
            if self.users.get(name) is not None:
                raise InvalidSetting(f"{name!r} is a user: choose another name")
            return {_POLICY + name: pack(record)}

        await self.journal.update(decide)
        self.audit.record(who, "policy.create", name, rights=right_names(policy.rights), hub=hub, group=group)
        return _with_keys(_Known(policy, record, keys))

    async def rotate(self, who: str, name: str, key: str = "secondary") -> dict[str, Any]:
        """Make `primary` or `secondary` anew; who signed in with the old one is out. Raises InvalidSetting."""
        if key not in ("primary", "secondary"):
            raise InvalidSetting("a policy has a primary and a secondary key")
        fresh = new_key()
        known = await self._with_keys(name, lambda keys: (fresh, keys[1]) if key == "primary" else (keys[0], fresh))
        self.audit.record(who, "policy.rotate", name, key=key)
        return _with_keys(known)

    async def delete_policy(self, who: str, name: str) -> None:
        """Forget a policy; who signed in with it is out. Raises InvalidSetting."""

        def decide() -> Changes:
            known = self._policy(name)
            if not any(_rules_all(other.policy) for other in self._policies.values() if other is not known):
                raise InvalidSetting(f"{name!r} is the last policy with Manage on the namespace: make another first")
            return {_POLICY + name: None}

        await self.journal.update(decide)
        self.audit.record(who, "policy.delete", name)

    async def set_certificate(self, who: str, subject: str, policies: Sequence[str]) -> None:
        """Say whose policies a certificate of that CN or SAN carries; none forgets it. Raises InvalidSetting."""
        if not 1 <= len(subject) <= NAME_CHARS_MAX:
            raise InvalidSetting(f"a subject has 1 to {NAME_CHARS_MAX} characters")
        record = CertificateRecord(list(policies)) if policies else None

        def decide() -> Changes:
            self._check_policies(policies)
            return {_CERTIFICATE + urllib.parse.quote(subject, safe=""): pack(record) if record else None}

        await self.journal.update(decide)
        self.audit.record(who, "certificate.set", subject, policies=list(policies))

    def quotas(self) -> dict[str, Quota]:
        """Whoever is limited in bytes, by name."""
        known = {**self._quotas.all(), **{name: known.quota for name, known in self._policies.items()}}
        return {name: quota for name, quota in sorted(known.items()) if quota.bytes_in_s or quota.bytes_out_s}

    async def set_quota(
        self, who: str, name: str, bytes_in_s: int | None, bytes_out_s: int | None, *, peer: str = "",
        only_check: bool = False,
    ) -> None:  # fmt: skip
        """Limit what a policy or anybody else of that name may use; None leaves it as it is. Raises InvalidSetting."""
        quota = NO_QUOTA

        def decide() -> Changes:
            nonlocal quota
            self._quotas.check(name)
            known = self._policies.get(name)
            before = self._quotas.of(name) if known is None else known.quota
            quota = Quota(
                before.bytes_in_s if bytes_in_s is None else bytes_in_s,
                before.bytes_out_s if bytes_out_s is None else bytes_out_s,
                before.connections,
            )
            return self._quotas.changes(name, quota) if known is None else known.with_quota(quota)

        if only_check:
            decide()
            return
        await self.journal.update(decide)
        self.audit.record(who, "quota.set", name, peer=peer, bytes_in_s=quota.bytes_in_s, bytes_out_s=quota.bytes_out_s)

    def certificates(self) -> list[dict[str, Any]]:
        """Certificate subjects and their policies."""
        return [{"subject": name, "policies": each.policies} for name, each in sorted(self._certificates.items())]

    def _policy(self, name: str) -> _Known:
        known = self._policies.get(name)
        if known is None:
            raise InvalidSetting(f"there is no policy {name[:80]!r}: see `gridwire policy list`")
        return known

    def _check_policies(self, names: Sequence[str]) -> None:
        for name in names:
            self._policy(name)

    async def _with_keys(self, name: str, change: Callable[[tuple[str, str]], tuple[str, str]]) -> _Known:
        """Give a policy other keys. Raises InvalidSetting."""
        await self.journal.catch_up()
        while True:
            known = self._policy(name)
            keys = change(known.keys)
            record = await self._record(known.policy, keys, known.quota, known.record.created_ms)
            unless_changed = partial(self._unless_changed, known, {_POLICY + name: pack(record)})
            if await self.journal.update(unless_changed):
                return _Known(known.policy, record, keys)

    def _unless_changed(self, known: _Known, changes: Changes) -> Changes:
        return changes if self._policy(known.policy.name) is known else {}

    async def _record(self, policy: Policy, keys: tuple[str, str], quota: Quota, created_ms: int) -> PolicyRecord:
        name = policy.name
        return PolicyRecord(
            policy.rights.value, policy.hub, policy.group,
            self._sealer.seal(keys[0], f"{name}/primary"), self._sealer.seal(keys[1], f"{name}/secondary"),
            await asyncio.to_thread(scram_records, keys),
            quota.bytes_in_s, quota.bytes_out_s, quota.connections, created_ms,
        )  # fmt: skip

    # -- sign-in ------------------------------------------------------------------------------------------------

    def by_key(self, claim: NameAndKey) -> Identity:
        """Somebody who knows a policy's name and one of its keys. Users sign in with SCRAM only."""
        known = self._policies.get(claim.name)
        keys = known.keys if known is not None else ("", "")
        found = [key for key in keys if same(key, claim.key)]
        if known is not None and found:
            return self._of_policy(known, "key", found[0], claim.hub)
        raise NotAuthenticated(WRONG)

    def by_sas(self, text: str, publisher: str | None = None) -> Identity:
        """Somebody with a shared access signature; one for a single publisher is good where he is named only."""
        token = sas.parse(text)
        if token.publisher is not None and token.publisher != publisher:
            raise NotAuthenticated("this shared access signature is good for sending as its publisher only")
        known = self._policies.get(token.policy)
        key = sas.verify(token, known.keys if known is not None else ("",), self._now_s())
        if known is None or key is None:
            raise NotAuthenticated(WRONG)
        return self._of_policy(known, "sas", key, token.hub, token.expires_s)

    def scram_verifiers(self, mechanism: str, name: str) -> list[scram.Verifier]:
        """What an exchange checks a client against; a decoy for a name that is not known."""
        record = self._scram_record(mechanism, name)
        return record.verifiers() if record else [scram.unknown_verifier(mechanism, name, self._decoy)]

    def by_scram(self, mechanism: str, name: str, index: int) -> Identity:
        """Somebody whose exchange succeeded with verifier `index`."""
        known = self._policies.get(name)
        if known is not None:
            return self._of_policy(known, "scram", known.keys[index])
        record = self._scram_record(mechanism, name)
        if record is None:
            raise NotAuthenticated(WRONG)
        stored = record.pairs[index][0].hex()
        user = self.users.get(name)
        policies = () if user is None else self._named(user.policies)
        return self._identity(name, "scram", policies, credential=("user", name, mechanism, fingerprint(stored)))

    def _scram_record(self, mechanism: str, name: str) -> ScramRecord | None:
        known = self._policies.get(name)
        if known is not None:
            return known.record.scram.get(mechanism)
        user = self.users.get(name)
        return None if user is None else user.scram.get(mechanism)

    def by_token(self, text: str) -> Identity:
        """Somebody with a JSON Web Token of the issuer."""
        if self._issuer is None:
            raise NotAuthenticated("no token issuer is configured")
        try:
            subject = bearer.verify(text, self._issuer.keys.keys(), self._issuer.rules, self._now_s())
        except NotAuthenticated:
            self._issuer.keys.doubted()
            raise
        except GridwireError as error:
            raise NotAuthenticated(str(error)) from None
        policies = self._named(subject.policies)
        credential = ("token", *subject.policies)
        return self._identity(subject.name, "jwt", policies, expires_s=subject.expires_s, credential=credential)

    def by_certificate(self, names: Iterable[str]) -> Identity | None:
        """Whoever shows a certificate with one of these names; None when none is known."""
        for name in names:
            record = self._certificates.get(name)
            if record is not None:
                policies = self._named(record.policies)
                return self._identity(name, "certificate", policies, credential=("certificate", name))
        return None

    def renew(self, identity: Identity) -> Identity | None:
        """The identity as of now, after something changed; None when what proved it is no longer good."""
        kind, *rest = identity.credential
        policies: tuple[Policy, ...] | None = None
        quota = self._quotas.of(identity.name)
        if kind == "policy":
            known = self._policies.get(rest[0])
            if known is not None and any(fingerprint(key) == rest[1] for key in known.keys):
                policies, quota = (known.policy,), known.quota
        elif kind == "user":
            user = self.users.get(rest[0])
            record = None if user is None else user.scram.get(rest[1])
            pairs = [] if record is None else record.pairs
            if user is not None and any(fingerprint(stored.hex()) == rest[2] for stored, _ in pairs):
                policies = self._named(user.policies)
        elif kind == "certificate" and rest[0] in self._certificates:
            policies = self._named(self._certificates[rest[0]].policies)
        elif kind == "token":
            policies = self._named(rest)
        if policies is None:
            return None
        return self._identity(
            identity.name, identity.how, policies, quota, identity.resource, identity.expires_s, identity.credential
        )

    def usage(self, identity: Identity) -> Usage | None:
        """What the identity's connections use together; None when nothing limits it."""
        quota = identity.quota
        if quota == NO_QUOTA:
            return None
        found = self._usage.get(identity.name)
        if found is None:
            found = self._usage[identity.name] = Usage(Bucket(quota.bytes_in_s), Bucket(quota.bytes_out_s))
        return found

    def monotonic(self) -> float:
        """The clock quotas go by."""
        return self._clock.monotonic()

    def now_s(self) -> float:
        """Wall time, against which expiry is checked."""
        return self._now_s()

    def _now_s(self) -> float:
        return self._clock.now_ms() / 1000

    def _named(self, names: Iterable[str]) -> tuple[Policy, ...]:
        return tuple(self._policies[name].policy for name in names if name in self._policies)

    def _of_policy(
        self, known: _Known, how: str, key: str, resource: str | None = None, expires_s: float | None = None
    ) -> Identity:
        name = known.policy.name
        credential = ("policy", name, fingerprint(key))
        return self._identity(name, how, (known.policy,), known.quota, resource, expires_s, credential)

    def _identity(
        self, name: str, how: str, policies: tuple[Policy, ...], quota: Quota | None = None,
        resource: str | None = None, expires_s: float | None = None, credential: tuple[str, ...] = (),
    ) -> Identity:  # fmt: skip
        quota = self._quotas.of(name) if quota is None else quota
        return Identity(name, how, policies, quota, resource, expires_s, credential, self.acls.of(name))


def _rules_all(policy: Policy) -> bool:
    return policy.hub is None and Right.MANAGE in policy.rights


def _shown(known: _Known) -> dict[str, Any]:
    policy, record = known.policy, known.record
    return {
        "name": policy.name, "rights": right_names(policy.rights), "hub": policy.hub, "group": policy.group,
        "bytes_in_s": record.bytes_in_s, "bytes_out_s": record.bytes_out_s, "connections": record.connections,
        "created_ms": record.created_ms,
    }  # fmt: skip


def _with_keys(known: _Known) -> dict[str, Any]:
    return {**_shown(known), "primary_key": known.keys[0], "secondary_key": known.keys[1]}
