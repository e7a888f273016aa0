"""Several gateways change the control state of one cluster at once: every change is decided on what it is written on.

Negative control: without the number that a change set carries, changes of one gateway undo those of another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from brokers import KafkaStore
from gridwire.auth.model import Quota
from gridwire.broker import kafka_append, kafka_control
from gridwire.broker.claims import Claim, Claims
from gridwire.broker.control import Changes
from gridwire.broker.identities import ROOT_FILE, Identities
from gridwire.broker.kafka import KafkaBroker
from gridwire.broker.kafka_wire import Disconnected
from gridwire.broker.schemas import SchemaRegistry
from gridwire.core.clock import SystemClock
from gridwire.core.errors import GridwireError, HubExists, InvalidSetting, SchemaGroupExists
from gridwire.schemas.model import Compatibility, Format
from kafka_cluster import KafkaCluster

CLOCK = SystemClock()


@pytest.fixture
def kafka_store(kafka: KafkaCluster) -> KafkaStore:
    return KafkaStore(kafka.bootstrap)


@asynccontextmanager
async def gateways(store: KafkaStore, count: int = 2) -> AsyncIterator[list[Any]]:
    """Brokers that are opened at the same moment, on a cluster where nothing of theirs is yet."""
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(store.opened()) for _ in range(count)]
        yield list(await asyncio.gather(*opening))


async def results(*awaited: Any) -> list[Any]:
    return await asyncio.gather(*awaited, return_exceptions=True)


def number(broker: KafkaBroker, key: str) -> int:
    return int(dict(broker.kept(key)).get("", b"0"))


async def increment(broker: KafkaBroker, times: int, key: str = "number") -> None:
    def decide() -> Changes:
        return {key: b"%d" % (number(broker, key) + 1)}

    for _ in range(times):
        assert await broker.update(decide)


@pytest.mark.parametrize("numbered", [True, False])
def test_no_change_is_decided_on_what_is_over(
    kafka_store: KafkaStore, monkeypatch: pytest.MonkeyPatch, numbered: bool
) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store, 3) as brokers:
            if not numbered:
                monkeypatch.setattr(kafka_control, "set_producer", lambda *_: None)
            await asyncio.gather(*(increment(broker, 15) for broker in brokers for _ in range(2)))
            for broker in brokers:
                await broker.catch_up()
            counted = {number(broker, "number") for broker in brokers}
            assert counted == {90} if numbered else max(counted) < 90

    asyncio.run(scenario())


def test_a_lost_answer_is_neither_a_lost_nor_a_second_change(
    kafka_store: KafkaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry = kafka_append._Courier.carry
    turns: Iterator[int] = iter(range(1_000_000))

    async def losing(self: Any, place: Any, sent: memoryview) -> Any:
        told = await carry(self, place, sent)
        if next(turns) % 2:
            raise Disconnected("the answer is lost")
        return told

    async def scenario() -> None:
        async with gateways(kafka_store) as brokers:
            monkeypatch.setattr(kafka_append._Courier, "carry", losing)
            await asyncio.gather(*(increment(broker, 10) for broker in brokers))
            await brokers[0].catch_up()
            assert number(brokers[0], "number") == 20

    asyncio.run(scenario())


def test_who_gives_up_waiting_leaves_no_doubt_behind(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store, 1) as (broker,):
            for _ in range(10):
                task = asyncio.create_task(increment(broker, 1))
                await asyncio.sleep(0)
                task.cancel()
            await increment(broker, 1)
            assert number(broker, "number") == 11

    asyncio.run(scenario())


def test_where_cluster_and_topic_disagree_a_new_epoch_begins(kafka_store: KafkaStore) -> None:
    """As after somebody deleted the topic's records: the brokers remember numbers that gateways cannot see."""

    async def scenario() -> None:
        async with gateways(kafka_store) as (one, two):
            await increment(one, 3)
            await two.catch_up()
            one._control._next = two._control._next = (0, 40_000)
            await asyncio.gather(increment(one, 3), increment(two, 3))
            assert one._control._next[0] >= 1
            await one.catch_up()
            assert number(one, "number") == 9

    asyncio.run(scenario())


def test_what_a_decision_raises_is_raised_and_nothing_is_written(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store) as (one, two):
            await one.change({"a": b"1"})

            def decide() -> Changes:
                assert dict(two.kept("a")) == {"": b"1"}, "decided before everything was known"
                raise InvalidSetting("no")

            with pytest.raises(InvalidSetting):
                await two.update(decide)
            assert not await two.update(dict)
            before = one._control._offset
            await one.catch_up()
            assert one._control._offset == before

    asyncio.run(scenario())


def test_of_two_claims_of_a_partition_one_is_granted(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store) as brokers:
            await brokers[0].create_hub("a", 8)
            await brokers[1].client.refresh()
            one, two = (Claims(broker, CLOCK) for broker in brokers)
            granted = await asyncio.gather(
                *(claims.claim("g", "a", [Claim(partition, owner)])
                  for partition in range(8) for claims, owner in ((one, "one"), (two, "two")))
            )  # fmt: skip
            won = sorted(each.partition for some in granted for each in some)
            assert won == list(range(8))
            for broker in brokers:
                await broker.catch_up()
            assert [(c.partition, c.owner, c.etag) for c in one.held("g", "a")] == [
                (c.partition, c.owner, c.etag) for c in two.held("g", "a")
            ]
            (first,) = one.held("g", "a")[:1]
            renewed = await asyncio.gather(
                one.claim("g", "a", [Claim(0, "one", first.etag)]), two.claim("g", "a", [Claim(0, "two", first.etag)])
            )
            assert sorted(len(each) for each in renewed) == [0, 1]

    asyncio.run(scenario())


def test_versions_of_a_schema_have_no_gaps_and_ids_are_one_each(kafka_store: KafkaStore) -> None:
    def definition(field: str) -> str:
        parts = [{"name": field, "type": "string", "default": ""}]
        return json.dumps({"type": "record", "name": "R", "fields": parts})

    async def scenario() -> None:
        async with gateways(kafka_store) as brokers:
            one, two = registries = [SchemaRegistry(broker, CLOCK) for broker in brokers]
            made = await results(*(each.create_group("g", Format.AVRO, Compatibility.BACKWARD) for each in registries))
            assert sorted(isinstance(each, SchemaGroupExists) for each in made) == [False, True]
            fields = [f"f{n}" for n in range(8)]
            registered = await asyncio.gather(
                *(each.register("g", "r", Format.AVRO, definition(f)) for f in fields for each in registries)
            )
            by_id = {each.id: each for each in registered}
            assert sorted(each.version for each in by_id.values()) == list(range(1, 9))
            assert len({each.definition for each in by_id.values()}) == 8
            for broker in brokers:
                await broker.catch_up()
            assert one.versions("g", "r") == two.versions("g", "r")
            assert [each.version for each in one.versions("g", "r")] == list(range(1, 9))
            ended = await results(one.delete("g", "r"), two.register("g", "r", Format.AVRO, definition("last")))
            assert not [each for each in ended if isinstance(each, Exception)]
            await two.delete("g", "r")
            ended = await results(one.delete_group("g"), two.register("g", "r", Format.AVRO, definition("more")))
            assert len([each for each in ended if isinstance(each, GridwireError)]) == 1, "a schema without its group"

    asyncio.run(scenario())


async def identities(brokers: list[Any], tmp_path: Path) -> list[Identities]:
    found = []
    for index, broker in enumerate(brokers):
        path = tmp_path / str(index)
        path.mkdir()
        (path / "secret.key").write_bytes(b"k" * 32)
        found.append(Identities(broker, path, CLOCK))
    files = await asyncio.gather(*(each.open() for each in found))
    (file,) = (each for each in files if each is not None)
    assert file.name == ROOT_FILE
    return found


def test_policies_users_and_quotas(kafka_store: KafkaStore, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store) as brokers:
            one, two = await identities(brokers, tmp_path)
            made = await results(*(each.create_policy("me", "p", ["Send"]) for each in (one, two)))
            assert sorted(isinstance(each, InvalidSetting) for each in made) == [False, True]
            password = "a long password"
            made = await results(one.create_policy("me", "x", ["Send"]), two.users.set("me", "x", password, ["p"]))
            assert sorted(isinstance(each, InvalidSetting) for each in made) == [False, True]
            await asyncio.gather(one.set_quota("me", "p", 1000, None), two.set_quota("me", "p", None, 2000))
            await asyncio.gather(one.set_quota("me", "u", 1000, None), two.set_quota("me", "u", None, 2000))
            await one.journal.catch_up()
            assert (one.quotas()["p"], one.quotas()["u"]) == (Quota(1000, 2000), Quota(1000, 2000))
            before = one._policies["p"].keys
            await asyncio.gather(one.rotate("me", "p", "primary"), two.rotate("me", "p", "secondary"))
            for each in (one, two):
                await each.journal.catch_up()
            assert one._policies["p"].keys == two._policies["p"].keys
            assert not set(before) & set(one._policies["p"].keys)
            assert one.quotas()["p"] == Quota(1000, 2000)
            await two.create_policy("me", "second", ["Manage"])
            root = next(each["name"] for each in one.policies() if each["name"] not in ("p", "x", "second"))
            gone = await results(one.delete_policy("me", root), two.delete_policy("me", "second"))
            assert sorted(isinstance(each, InvalidSetting) for each in gone) == [False, True], "nobody may manage"

    asyncio.run(scenario())


def test_gateways_that_start_with_different_keys_at_once_are_told(kafka_store: KafkaStore, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store) as brokers:
            opened = []
            for index, broker in enumerate(brokers):
                (tmp_path / str(index)).mkdir()
                opened.append(Identities(broker, tmp_path / str(index), CLOCK).open())
            ended = await results(*opened)
            (failed,) = (each for each in ended if isinstance(each, GridwireError))
            assert "another gateway" in str(failed)

    asyncio.run(scenario())


def test_a_hub_that_two_create_at_once_is_one(kafka_store: KafkaStore) -> None:
    async def scenario() -> None:
        async with gateways(kafka_store) as brokers:
            for name in ("a", "b"):
                made = await results(*(each.create_hub(name, 2, {"capture": "events"}) for each in brokers))
                assert sorted(isinstance(each, HubExists) for each in made) == [False, True]
                (winner,) = (each for each in made if not isinstance(each, Exception))
                for broker in brokers:
                    await broker.client.refresh()
                    await broker.catch_up()
                    assert broker.hub(name).id == winner.id
            one, two = brokers
            await asyncio.gather(
                one.alter_hub("a", {"capture_avro": "on"}), two.alter_hub("a", {"capture": "off"}),
                one.alter_hub("a", {"retention_ms": 3_600_000}), two.alter_hub("a", {"retention_bytes": 1 << 20}),
            )  # fmt: skip
            for broker in brokers:
                await broker.catch_up()
                broker._hubs._configs.clear()
                await broker.client.refresh()
                found = broker.hub("a").settings
                assert (found.capture_avro, found.capture) == ("on", "off")
                assert (found.retention_ms, found.retention_bytes) == (3_600_000, 1 << 20)

    asyncio.run(scenario())
