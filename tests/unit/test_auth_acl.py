"""Access control lists: what a binding is about, and the one decision they share with policies."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gridwire.auth import scram
from gridwire.auth.acl import (
    CLUSTER_NAME,
    Binding,
    Filter,
    Operation,
    Pattern,
    Permission,
    ResourceType,
    check,
)
from gridwire.auth.model import ALL_RIGHTS, Action, Identity, Policy, Quota, Right, allowed
from gridwire.broker import acls
from gridwire.broker.audit import AUDIT_HUB
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.identities import Identities
from gridwire.broker.users import SaltedPassword, UnknownCredential
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.core.clock import ManualClock
from gridwire.core.errors import InvalidName, InvalidSetting, NotAuthenticated

TOPIC, GROUP, CLUSTER = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.CLUSTER
TRANSACTION = ResourceType.TRANSACTIONAL_ID
READ, WRITE, ALL = Operation.READ, Operation.WRITE, Operation.ALL
DENY = Permission.DENY


def say(
    kind: ResourceType,
    name: str,
    operation: Operation,
    permission: Permission = Permission.ALLOW,
    *,
    prefix: bool = False,
    who: str = "ann",
    host: str = "*",
) -> Binding:
    pattern = Pattern.PREFIXED if prefix else Pattern.LITERAL
    return check(Binding(kind, name, pattern, f"User:{who}", host, operation, permission))


def may(action: Action, resource: str | None, *bindings: Binding, policy: Policy | None = None, host: str = "") -> bool:
    policies = () if policy is None else (policy,)
    return allowed(Identity("ann", "scram", policies, bindings=bindings), action, resource, host)


def test_a_grant_is_for_its_resources_only() -> None:
    exactly, beginning, every = say(TOPIC, "a", READ), say(TOPIC, "a", READ, prefix=True), say(TOPIC, "*", READ)
    for binding, names in ((exactly, {"a"}), (beginning, {"a", "a.b"}), (every, {"a", "a.b", "b"})):
        assert {name for name in ("a", "a.b", "b") if may(Action.READ, name, binding)} == names
        assert not may(Action.SEND, "a", binding)
        assert not may(Action.USE_GROUP, "a", binding)
    assert not may(Action.READ, "*", exactly)


def test_nothing_is_granted_by_nothing() -> None:
    for action in Action:
        assert not may(action, "a")
        assert not may(action, "a", say(TOPIC, "b", ALL, DENY))


@pytest.mark.parametrize("granted", [say(TOPIC, "a", READ), say(TOPIC, "*", ALL), say(TOPIC, "a", ALL, prefix=True)])
@pytest.mark.parametrize(
    "refused", [say(TOPIC, "a", READ, DENY), say(TOPIC, "*", ALL, DENY), say(TOPIC, "a", READ, DENY, prefix=True)]
)
def test_a_refusal_beats_every_grant(granted: Binding, refused: Binding) -> None:
    policy = Policy("p", ALL_RIGHTS, "a")
    assert may(Action.READ, "a", granted)
    for order in ((granted, refused), (refused, granted)):
        assert not may(Action.READ, "a", *order)
        assert not may(Action.READ, "a", *order, policy=policy)
    assert may(Action.READ, "a", refused, policy=Policy("root", Right.MANAGE))  # or somebody could lock everybody out


def test_policies_and_lists_add_up() -> None:
    policy = Policy("p", Right.SEND, "a")
    grant = say(TOPIC, "b", WRITE)
    assert [name for name in "abc" if may(Action.SEND, name, grant, policy=policy)] == ["a", "b"]


def test_what_one_operation_implies() -> None:
    for operation in (READ, WRITE, Operation.DELETE, Operation.ALTER, Operation.DESCRIBE, ALL):
        assert may(Action.DESCRIBE_HUB, "a", say(TOPIC, "a", operation))
        assert may(Action.LOOK_UP_OFFSETS, "a", say(TOPIC, "a", operation))
    assert not may(Action.DESCRIBE_HUB, "a", say(TOPIC, "a", Operation.CREATE))
    assert may(Action.DESCRIBE_SETTINGS, "a", say(TOPIC, "a", Operation.ALTER_CONFIGS))
    assert not may(Action.DESCRIBE_SETTINGS, "a", say(TOPIC, "a", Operation.ALTER))
    assert may(Action.READ, "a", say(TOPIC, "a", READ), say(TOPIC, "a", Operation.DESCRIBE, DENY))


def test_a_binding_for_an_address_holds_there_only() -> None:
    grant, refusal = say(TOPIC, "a", READ, host="10.0.0.1"), say(TOPIC, "a", READ, DENY, host="10.0.0.2")
    assert may(Action.READ, "a", grant, host="10.0.0.1")
    assert not may(Action.READ, "a", grant, host="10.0.0.2")
    assert may(Action.READ, "a", refusal, say(TOPIC, "a", READ), host="10.0.0.1")
    assert not may(Action.READ, "a", refusal, say(TOPIC, "a", READ), host="10.0.0.2")


def test_hubs_of_the_platform_are_granted_by_their_very_name() -> None:
    for wide in (say(TOPIC, "*", ALL), say(TOPIC, "__", ALL, prefix=True), say(CLUSTER, CLUSTER_NAME, ALL)):
        assert not may(Action.READ, "__audit", wide)
        assert not may(Action.CREATE_HUB, "__mine", wide)
    assert may(Action.READ, "__audit", say(TOPIC, "__audit", READ))
    assert not may(Action.READ, "__audit", say(TOPIC, "__audit", READ), say(TOPIC, "*", READ, DENY))


def test_creating_takes_the_topic_or_the_cluster() -> None:
    cluster = say(CLUSTER, CLUSTER_NAME, Operation.CREATE)
    assert may(Action.CREATE_HUB, "a", cluster)
    assert may(Action.CREATE_HUB, "ab", say(TOPIC, "a", Operation.CREATE, prefix=True))
    assert not may(Action.CREATE_HUB, "a", cluster, say(TOPIC, "a", Operation.CREATE, DENY))
    refused = say(CLUSTER, CLUSTER_NAME, Operation.CREATE, DENY)
    assert may(Action.CREATE_HUB, "a", refused, say(TOPIC, "a", Operation.CREATE))
    assert may(Action.CREATE_HUB, "a", refused, policy=Policy("p", Right.MANAGE, "a"))


def test_producer_ids_are_for_whoever_may_send_anywhere() -> None:
    ask = (Action.PRODUCE_IDEMPOTENTLY, None)
    assert may(*ask, say(CLUSTER, CLUSTER_NAME, Operation.IDEMPOTENT_WRITE))
    assert may(*ask, say(TOPIC, "a", WRITE, prefix=True))
    assert may(*ask, say(TOPIC, "*", WRITE), say(TOPIC, "a", WRITE, DENY, prefix=True))
    assert may(*ask, say(TOPIC, "a", WRITE, prefix=True), say(TOPIC, "a", WRITE, DENY))
    assert not may(*ask, say(TOPIC, "a", WRITE, prefix=True), say(TOPIC, "*", WRITE, DENY))
    assert not may(*ask, say(TOPIC, "ab", WRITE), say(TOPIC, "a", ALL, DENY, prefix=True))
    assert not may(*ask, say(TOPIC, "a", WRITE), say(TOPIC, "a", WRITE, DENY))
    assert not may(*ask, say(TOPIC, "a", READ), say(GROUP, "a", ALL))


def test_transactions_the_cluster_and_patterns() -> None:
    assert may(Action.TRANSACT, "tx-1", say(TRANSACTION, "tx", WRITE, prefix=True))
    assert not may(Action.TRANSACT, "tx-1", say(TRANSACTION, "tx", Operation.DESCRIBE, prefix=True))
    assert may(Action.DESCRIBE_TRANSACTION, "tx", say(TRANSACTION, "tx", WRITE))
    assert may(Action.TRANSACT, "any", policy=Policy("p", Right.SEND, "a"))
    assert may(Action.OPERATE, None, say(CLUSTER, CLUSTER_NAME, Operation.ALTER))
    assert not may(Action.OPERATE, None, say(CLUSTER, CLUSTER_NAME, Operation.DESCRIBE))
    assert may(Action.INSPECT, None, say(CLUSTER, CLUSTER_NAME, Operation.DESCRIBE))
    assert may(Action.SUBSCRIBE_BY_PATTERN, None, say(TOPIC, "*", READ))
    assert not may(Action.SUBSCRIBE_BY_PATTERN, None, say(TOPIC, "a", READ, prefix=True))
    assert not may(Action.SUBSCRIBE_BY_PATTERN, None, say(CLUSTER, CLUSTER_NAME, ALL))


def test_a_token_for_one_hub_stays_there() -> None:
    identity = Identity("ann", "sas", (), resource="a", bindings=(say(TOPIC, "*", READ), say(GROUP, "g", READ)))
    assert allowed(identity, Action.READ, "a")
    assert not allowed(identity, Action.READ, "b")
    assert allowed(identity, Action.USE_GROUP, "g")


@pytest.mark.parametrize(
    "wrong",
    [
        (TOPIC, "", Pattern.LITERAL, "User:a", "*", READ),
        (TOPIC, "a/b", Pattern.LITERAL, "User:a", "*", READ),
        (TOPIC, "a", Pattern.LITERAL, "Group:a", "*", READ),
        (TOPIC, "a", Pattern.LITERAL, "User:", "*", READ),
        (TOPIC, "a", Pattern.LITERAL, "User:a", "", READ),
        (TOPIC, "a", Pattern.LITERAL, "User:" + "a" * 1024, "*", READ),
        (TOPIC, "a", Pattern.LITERAL, "User:a", "*", Operation.IDEMPOTENT_WRITE),
        (GROUP, "a", Pattern.LITERAL, "User:a", "*", WRITE),
        (CLUSTER, "other", Pattern.LITERAL, "User:a", "*", ALL),
        (CLUSTER, CLUSTER_NAME, Pattern.PREFIXED, "User:a", "*", ALL),
        (CLUSTER, CLUSTER_NAME, Pattern.LITERAL, "User:a", "*", READ),
        (TRANSACTION, "a", Pattern.LITERAL, "User:a", "*", READ),
    ],
)
def test_a_binding_that_means_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises((InvalidSetting, InvalidName)):
        check(Binding(*wrong, Permission.ALLOW))


def test_filters() -> None:
    exactly, beginning, every = say(TOPIC, "ab", READ), say(TOPIC, "a", READ, prefix=True), say(TOPIC, "*", WRITE)
    group = say(GROUP, "ab", READ, who="bob")
    all_of_them = {exactly, beginning, every, group}

    def found(**more: Any) -> set[Binding]:
        return {each for each in all_of_them if Filter(**more).takes(each)}

    assert found() == all_of_them
    assert found(name="ab") == {exactly, group}
    assert found(name="ab", matching=True, resource_type=TOPIC) == {exactly, beginning, every}
    assert found(pattern=Pattern.PREFIXED) == {beginning}
    assert found(principal="User:bob") == {group}
    assert found(operation=WRITE) == {every}
    assert found(permission=DENY) == found(host="h") == found(resource_type=6) == set()


# -- kept


def with_hub(directory: Path, body: Any) -> Any:
    async def main() -> Any:
        broker = await EmbeddedBroker.open(directory, "os")
        try:
            access = Identities(broker, directory, ManualClock())
            await access.open()
            return await body(access, broker)
        finally:
            await broker.close()

    return asyncio.run(main())


PASSWORD, SALT = "an honest password", b"0123456789abcdef"


def salted(mechanism: str, password: str = PASSWORD, iterations: int = 8192) -> SaltedPassword:
    key = hashlib.pbkdf2_hmac(scram.HASHES[mechanism], password.encode(), SALT, iterations)
    return SaltedPassword(SALT, iterations, key)


def test_bindings_outlive_a_restart_and_open_connections_follow(tmp_path: Path) -> None:
    read, odd = say(TOPIC, "h", READ), say(GROUP, "g/ %", READ, who="CN=a, O=b")

    async def first(access: Identities, _: EmbeddedBroker) -> None:
        await access.users.alter("me", "ann", {"SCRAM-SHA-256": salted("SCRAM-SHA-256")})
        identity = access.by_scram("SCRAM-SHA-256", "ann", 0)
        assert not allowed(identity, Action.READ, "h")
        assert await access.acls.create("me", [read, odd, read]) == [None, None, None]
        identity = access.renew(identity)
        assert identity is not None
        assert allowed(identity, Action.READ, "h")
        assert await access.acls.create("me", [say(TOPIC, "h", READ, DENY, who="*")]) == [None]
        identity = access.renew(identity)
        assert identity is not None
        assert not allowed(identity, Action.READ, "h")

    async def second(access: Identities, broker: EmbeddedBroker) -> None:
        assert len(access.acls.found(Filter())) == 3
        assert access.acls.found(Filter(resource_type=GROUP)) == [odd]
        assert not allowed(access.by_scram("SCRAM-SHA-256", "ann", 0), Action.READ, "h")
        gone = await access.acls.delete("me", [Filter(permission=DENY), Filter(name="none")], "10.0.0.1")
        assert [len(each) for each in gone] == [1, 0]
        identity = access.by_scram("SCRAM-SHA-256", "ann", 0)
        assert allowed(identity, Action.READ, "h")
        await access.acls.delete("me", [Filter(principal="User:ann")])
        renewed = access.renew(identity)
        assert renewed is not None
        assert not allowed(renewed, Action.READ, "h")
        await broker.append(AUDIT_HUB, 0, encode([Event(b"{}", timestamp=1)]))  # what was written before is there now
        data = (await broker.read(AUDIT_HUB, 0, 0, 1 << 20)).data
        events = [json.loads(each.value or b"") for at, _ in iter_headers(data) for each in decode(data, at)]
        told = [(each["action"], each["what"]) for each in events if each.get("action", "").startswith("acl.")]
        assert told.count(("acl.create", "User:ann")) == told.count(("acl.delete", "User:ann")) == 1
        assert ("acl.delete", "User:*") in told
        shown = next(each for each in events if each.get("action") == "acl.delete")
        assert (shown["permission"], shown["operation"], shown["resource"]) == ("DENY", "READ", "TOPIC:LITERAL:h")
        assert shown["peer"] == "10.0.0.1"

    async def third(access: Identities, _: EmbeddedBroker) -> None:
        assert access.acls.found(Filter()) == [odd]

    for body in (first, second, third):
        with_hub(tmp_path, body)


def test_there_is_a_limit_and_nothing_is_half_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acls, "BINDINGS_MAX", 2)

    async def body(access: Identities, _: EmbeddedBroker) -> None:
        wanted = [say(TOPIC, "a", READ), Binding(TOPIC, "a", Pattern.LITERAL, "x", "*", READ, Permission.ALLOW),
                  say(TOPIC, "b", READ), say(TOPIC, "c", READ), say(TOPIC, "a", READ)]  # fmt: skip
        outcomes = await access.acls.create("me", wanted)
        assert [outcome is None for outcome in outcomes] == [True, False, True, False, True]
        assert [each.name for each in access.acls.found(Filter())] == ["a", "b"]

    with_hub(tmp_path, body)


def test_users_from_salted_passwords(tmp_path: Path) -> None:
    async def first(access: Identities, _: EmbeddedBroker) -> None:
        await access.create_policy("me", "p", ["Send"])
        both = {each: salted(each) for each in scram.HASHES}
        await access.users.alter("me", "ann@home ü/x", both)
        for mechanism in scram.HASHES:
            made = access.scram_verifiers(mechanism, "ann@home ü/x")[0]
            assert made == scram.make_verifier(mechanism, PASSWORD, SALT, 8192)
        identity = access.by_scram("SCRAM-SHA-512", "ann@home ü/x", 0)
        await access.users.alter("me", "ann@home ü/x", {"SCRAM-SHA-256": salted("SCRAM-SHA-256", "another password")})
        assert access.renew(identity) is not None
        await access.users.alter("me", "ann@home ü/x", {"SCRAM-SHA-512": None})
        assert access.renew(identity) is None
        with pytest.raises(NotAuthenticated):
            access.by_scram("SCRAM-SHA-512", "ann@home ü/x", 0)
        with pytest.raises(UnknownCredential):
            await access.users.alter("me", "ann@home ü/x", {"SCRAM-SHA-512": None, "SCRAM-SHA-256": None})
        with pytest.raises(InvalidSetting, match="is a policy"):
            await access.users.alter("me", "p", both)
        await access.users.set("me", "ann.home", "a long password", ["p"])
        with pytest.raises(InvalidSetting, match="is a user"):
            await access.create_policy("me", "ann.home", ["Send"])

    async def second(access: Identities, _: EmbeddedBroker) -> None:
        assert access.users.mechanisms()["ann@home ü/x"] == {"SCRAM-SHA-256": 8192}
        await access.users.alter("me", "ann@home ü/x", {"SCRAM-SHA-256": None})
        assert "ann@home ü/x" not in access.users.mechanisms()
        await access.users.alter("me", "ann.home", {"SCRAM-SHA-256": salted("SCRAM-SHA-256")})
        assert access.users.shown() == [{"user": "ann.home", "policies": ["p"]}]

    with_hub(tmp_path, first)
    with_hub(tmp_path, second)


@pytest.mark.parametrize(
    "sent",
    [
        SaltedPassword(SALT, 4095, bytes(32)),
        SaltedPassword(SALT, 16_385, bytes(32)),
        SaltedPassword(SALT, 4096, bytes(64)),
        SaltedPassword(b"", 4096, bytes(32)),
        SaltedPassword(bytes(257), 4096, bytes(32)),
    ],
)
def test_what_is_no_salted_password_is_refused(sent: SaltedPassword) -> None:
    with pytest.raises(InvalidSetting):
        scram.verifier_of("SCRAM-SHA-256", sent.salted, sent.salt, sent.iterations)


def test_quotas_of_names(tmp_path: Path) -> None:
    async def first(access: Identities, _: EmbeddedBroker) -> None:
        await access.create_policy("me", "p", ["Send"], quota=Quota(connections=3))
        await access.users.alter("me", "ann", {"SCRAM-SHA-256": salted("SCRAM-SHA-256")})
        identity = access.by_scram("SCRAM-SHA-256", "ann", 0)
        assert access.usage(identity) is None
        await access.set_quota("me", "ann", 100, None)
        await access.set_quota("me", "ann", None, 200)
        await access.set_quota("me", "ann", 1, 1, only_check=True)
        renewed = access.renew(identity)
        assert renewed is not None
        usage = access.usage(renewed)
        assert usage is not None
        assert (usage.inbound.rate, usage.outbound.rate) == (100, 200)
        await access.set_quota("me", "p", 5, 0)
        with pytest.raises(InvalidSetting):
            await access.set_quota("me", "", 5, 0)

    async def second(access: Identities, _: EmbeddedBroker) -> None:
        assert access.quotas() == {"ann": Quota(100, 200), "p": Quota(5, 0, 3)}
        await access.set_quota("me", "ann", 0, 0)
        assert access.usage(access.by_scram("SCRAM-SHA-256", "ann", 0)) is None
        await access.set_quota("me", "p", 0, 0)
        assert access.quotas() == {}

    with_hub(tmp_path, first)
    with_hub(tmp_path, second)
