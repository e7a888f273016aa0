"""Boxes that one hub only can open, and identities in them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from gridwire.auth import box
from gridwire.auth.plain import NameAndKey
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.identities import Identities
from gridwire.broker.identity_move import IdentityMove
from gridwire.core.clock import SystemClock
from gridwire.core.errors import InvalidSetting

OURS, THEIRS = b"o" * 32, b"t" * 32


def test_only_the_one_it_is_for_opens_a_box() -> None:
    shut = box.shut(box.public_key(OURS), b"content")
    assert box.opened(OURS, shut) == b"content" and b"content" not in shut
    assert box.shut(box.public_key(OURS), b"content") != shut
    with pytest.raises(InvalidSetting):
        box.opened(THEIRS, shut)
    for position in range(len(shut)):
        harmed = bytearray(shut)
        harmed[position] ^= 1
        with pytest.raises(InvalidSetting):
            box.opened(OURS, bytes(harmed))


@pytest.mark.parametrize("recipient", [b"", b"short", bytes(32), b"x" * 33])
def test_what_is_no_public_key_is_refused(recipient: bytes) -> None:
    with pytest.raises(InvalidSetting):
        box.shut(recipient, b"content")
    with pytest.raises(InvalidSetting):
        box.opened(OURS, recipient)


def test_identities_move_whole_or_not_at_all(tmp_path: Path) -> None:
    async def opened(name: str) -> tuple[EmbeddedBroker, Identities]:
        broker = await EmbeddedBroker.open(tmp_path / name, "os")
        access = Identities(broker, tmp_path / name, SystemClock())
        await access.open()
        return broker, access

    async def main() -> None:
        (one, old), (two, new) = await opened("old"), await opened("new")
        try:
            made = await old.create_policy("me", "meters", ["Send"], "readings")
            await old.users.set("me", "alice", "correct horse battery", ["meters"])
            await old.set_certificate("me", "CN=head-end", ["meters"])
            await old.set_quota("me", "alice", 1000, None)
            there, here = IdentityMove(old), IdentityMove(new)
            shut = await there.export("me", here.recipient())
            assert made["primary_key"].encode() not in shut
            counts = await here.take("me", shut)
            assert counts == {"policy": 2, "user": 1, "certificate": 1, "quota": 1, "acl": 0}
            for which in ("primary_key", "secondary_key"):
                assert new.by_key(NameAndKey("meters", made[which])).name == "meters"
            assert new.scram_verifiers("SCRAM-SHA-256", "alice") == old.scram_verifiers("SCRAM-SHA-256", "alice")
            assert new.by_certificate(["CN=head-end"]) is not None
            generation = new.generation
            with pytest.raises(InvalidSetting):
                await here.take("me", await there.export("me", there.recipient()))
            for nonsense in (b"", msgspec.msgpack.encode({"what/x": b""}), msgspec.msgpack.encode({"user/x": b"\x00"})):
                with pytest.raises(InvalidSetting):
                    await here.take("me", box.shut(here.recipient(), nonsense))
            await new.create_policy("me", "bob", ["Send"])
            await old.users.set("me", "bob", "correct horse battery", [])
            with pytest.raises(InvalidSetting, match="'bob' is a user there and a policy here"):
                await here.take("me", await there.export("me", here.recipient()))
            assert new.generation == generation + 1  # bob's
        finally:
            await one.close()
            await two.close()
        _, again = await opened("new")  # sealed under its own key file
        assert again.by_key(NameAndKey("meters", made["primary_key"])).name == "meters"
        await again.journal.close()  # type: ignore[attr-defined]

    asyncio.run(main())
