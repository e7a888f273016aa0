"""Policies and users in the journal: they outlive a restart, end when they are ended, and are never in the clear."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from gridwire.auth import sas, scram
from gridwire.auth.model import (
    ROOT_POLICY,
    TABLE,
    Action,
    Identity,
    Policy,
    Quota,
    Right,
    allowed,
    parse_rights,
    require,
)
from gridwire.auth.plain import NameAndKey
from gridwire.broker.audit import AUDIT_HUB
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.identities import Identities
from gridwire.broker.issuer_keys import RETRY_S, KeyAddress, KeyFile
from gridwire.broker.key_file import KEY_FILE
from gridwire.core.clock import ManualClock
from gridwire.core.errors import GridwireError, InvalidName, InvalidSetting, NotAllowed, NotAuthenticated, Unavailable

Body = Callable[[Identities, EmbeddedBroker], Awaitable[Any]]


def with_hub(directory: Path, body: Body, clock: ManualClock | None = None) -> Any:
    async def main() -> Any:
        broker = await EmbeddedBroker.open(directory, "os")
        try:
            access = Identities(broker, directory, clock or ManualClock())
            await access.open()
            return await body(access, broker)
        finally:
            await broker.close()

    return asyncio.run(main())


def test_keys_outlive_a_restart_and_end_when_rotated(tmp_path: Path) -> None:
    async def first(access: Identities, _: EmbeddedBroker) -> dict[str, Any]:
        return await access.create_policy("me", "p", ["send", "Listen"], "h")

    async def second(access: Identities, _: EmbeddedBroker) -> None:
        identity = access.by_key(NameAndKey("p", made["primary_key"]))
        other = access.by_key(NameAndKey("p", made["secondary_key"]))
        assert allowed(identity, Action.SEND, "h")
        await access.rotate("me", "p", "primary")
        assert access.renew(identity) is None
        assert access.renew(other) is not None
        with pytest.raises(NotAuthenticated):
            access.by_key(NameAndKey("p", made["primary_key"]))
        await access.delete_policy("me", "p")
        assert access.renew(other) is None
        with pytest.raises(InvalidSetting, match="last policy"):
            await access.delete_policy("me", ROOT_POLICY)

    made = with_hub(tmp_path, first)
    with_hub(tmp_path, second)
    data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert made["primary_key"].encode() not in data


def test_the_key_file_is_needed_and_must_be_the_one(tmp_path: Path) -> None:
    async def nothing(access: Identities, _: EmbeddedBroker) -> None: ...

    with_hub(tmp_path, nothing)
    key_file = tmp_path / KEY_FILE
    right = key_file.read_bytes()
    key_file.unlink()
    with pytest.raises(GridwireError, match="missing"):
        with_hub(tmp_path, nothing)
    key_file.write_bytes(b"x" * 32)
    with pytest.raises(GridwireError, match="does not open"):
        with_hub(tmp_path, nothing)
    key_file.write_bytes(right)
    with_hub(tmp_path, nothing)


def test_sas_expires_by_the_wall_clock(tmp_path: Path) -> None:
    clock = ManualClock()

    async def body(access: Identities, _: EmbeddedBroker) -> None:
        made = await access.create_policy("me", "p", ["Listen"])
        token = sas.sign("http://h/v1/hubs/a", "p", made["secondary_key"], clock.now_ms() // 1000 + 60)
        identity = access.by_sas(token)
        assert allowed(identity, Action.READ, "a")
        assert not allowed(identity, Action.READ, "b")
        assert not allowed(identity, Action.OBSERVE)
        clock.advance(61)
        assert identity.expired(access.now_s())
        with pytest.raises(NotAuthenticated):
            access.by_sas(token)

    with_hub(tmp_path, body, clock)


def test_users_are_kept_as_verifiers_and_certificates_by_name(tmp_path: Path) -> None:
    async def first(access: Identities, _: EmbeddedBroker) -> None:
        await access.create_policy("me", "p", ["Send"])
        await access.users.set("me", "operator", "correct horse battery", ["p"])
        await access.set_certificate("me", "CN with / in it", ["p"])
        for password, policies in (("short", ["p"]), ("long enough, really", ["none"])):
            with pytest.raises(InvalidSetting):
                await access.users.set("me", "other", password, policies)

    async def second(access: Identities, _: EmbeddedBroker) -> None:
        made = access.scram_verifiers("SCRAM-SHA-256", "operator")[0]
        assert made == scram.make_verifier("SCRAM-SHA-256", "correct horse battery", made.salt)
        identity = access.by_scram("SCRAM-SHA-256", "operator", 0)
        assert allowed(identity, Action.SEND, "h")
        found = access.by_certificate(["unknown", "CN with / in it"])
        assert found is not None
        assert access.by_certificate(["unknown"]) is None
        await access.users.set("me", "operator", "another password", ["p"])
        assert access.renew(identity) is None
        await access.set_certificate("me", "CN with / in it", [])
        assert access.renew(found) is None

    with_hub(tmp_path, first)
    with_hub(tmp_path, second)
    data = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"correct horse battery" not in data


def test_failures_in_the_audit_hub_are_bounded(tmp_path: Path) -> None:
    clock = ManualClock()

    async def body(access: Identities, broker: EmbeddedBroker) -> int:
        before = (await broker.bounds(AUDIT_HUB, 0)).end
        for _ in range(1000):
            access.audit.failed("?", "sign-in", "peer", "wrong")
        clock.advance(1)
        access.audit.failed("?", "sign-in", "peer", "wrong")
        await access.create_policy("me", "last", ["Send"])
        while (await broker.bounds(AUDIT_HUB, 0)).end < before + 12:
            await broker.wait({(AUDIT_HUB, 0): (await broker.bounds(AUDIT_HUB, 0)).end}, 5)
        read = await broker.read(AUDIT_HUB, 0, before, 1 << 20)
        assert b'"suppressed":990' in bytes(read.data)
        return (await broker.bounds(AUDIT_HUB, 0)).end - before

    assert with_hub(tmp_path, body, clock) == 12


def test_names_and_scopes_that_are_refused() -> None:
    for bad in ({"name": "a/b"}, {"hub": "a b"}):
        with pytest.raises(InvalidName):
            Policy(**{"name": "p", "rights": Right.SEND, **bad})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting):
        Policy("p", Right.LISTEN, None, "g")
    with pytest.raises(InvalidSetting):
        Policy("p", Right.SEND, "h", "g")
    for names in (["nothing"], []):
        with pytest.raises(InvalidSetting):
            parse_rights(names)


def test_the_table_is_whole_and_refuses_by_default() -> None:
    assert set(TABLE) == set(Action)
    nobody = Identity("n", "key", ())
    for action in Action:
        assert not allowed(nobody, action, "h")
        with pytest.raises(NotAllowed):
            require(nobody, action, "h")


@pytest.mark.parametrize("action", [Action.ALTER_HUB, Action.DELETE_HUB, Action.DELETE_EVENTS, Action.CREATE_HUB])
def test_managing_a_group_is_not_managing_its_hub(action: Action) -> None:
    identity = Identity("n", "key", (Policy("p", Right.MANAGE, "h", "g"),))
    assert not allowed(identity, action, "h")
    assert allowed(identity, Action.READ, "h")
    assert allowed(identity, Action.DELETE_GROUP, "g")
    assert not allowed(identity, Action.DELETE_GROUP, "other")
    assert not allowed(identity, Action.USE_GROUP, "other")


def test_quota_is_shared_by_name_and_absent_without_limits(tmp_path: Path) -> None:
    async def body(access: Identities, _: EmbeddedBroker) -> None:
        made = await access.create_policy("me", "p", ["Send"], quota=Quota(bytes_in_s=10))
        identity = access.by_key(NameAndKey("p", made["primary_key"]))
        again = access.by_key(NameAndKey("p", made["secondary_key"]))
        assert access.usage(identity) is access.usage(again)
        assert access.usage(Identity("x", "key", ())) is None

    with_hub(tmp_path, body)


def test_a_key_file_is_read_again_and_a_broken_one_ignored(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "jwks.json"
    one, two = (RSAKey.generate_key(2048, {"kid": each}).as_dict(private=False) for each in "ab")
    path.write_text(json.dumps({"keys": [one]}))
    source = KeyFile(path, clock.monotonic)
    assert [key.kid for key in source.keys().keys] == ["a"]
    path.write_text(json.dumps({"keys": [one, two]}))
    assert len(source.keys().keys) == 1
    clock.advance(2)
    assert [key.kid for key in source.keys().keys] == ["a", "b"]
    path.write_text("not json")
    clock.advance(2)
    assert len(source.keys().keys) == 2


def test_keys_of_an_address_are_fetched_seldom() -> None:
    clock = ManualClock()
    asked: list[str] = []
    document = json.dumps({"keys": [RSAKey.generate_key(2048, {"kid": "a"}).as_dict(private=False)]}).encode()

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return document

    async def main() -> None:
        source = KeyAddress("https://issuer/jwks", fetch, clock.monotonic)
        with pytest.raises(Unavailable):
            source.keys()
        for _ in range(100):
            source.doubted()
        while True:
            try:
                assert len(source.keys().keys) == 1
                break
            except Unavailable:
                await asyncio.sleep(0)
        clock.advance(RETRY_S)
        source.doubted()
        while len(asked) < 2:
            await asyncio.sleep(0)
        await source.close()
        assert len(asked) == 2

    asyncio.run(main())
    with pytest.raises(InvalidSetting):
        KeyAddress("http://issuer/jwks", fetch)
