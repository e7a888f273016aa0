"""The checkpoint store in the hub, blocking and asyncio: the SDK's interface, races, one truth with Kafka's groups."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from azure.eventhub import CheckpointStore
from azure.eventhub.aio import CheckpointStore as AsyncCheckpointStore

from gridwire import azure
from gridwire.azure import aio
from gridwire.broker import claims
from gridwire.broker.claims import Claim, Claims
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.port import Position
from gridwire.core.batch import Event, encode
from gridwire.core.clock import ManualClock
from gridwire.core.errors import GridwireError, InvalidSetting, Unavailable

NAMESPACE, HUB, GROUP = "localhost", "readings", "$Default"


class Blocking:
    """Calls the asyncio store as if it were the blocking one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            store = aio.HubCheckpointStore(self._url)
            try:
                return await getattr(store, name)(*arguments)
            finally:
                await store.close()

        return lambda *arguments: asyncio.run(call(*arguments))

    def close(self) -> None:
        """Nothing is held open."""


@pytest.fixture
def hub(http_hub: Any) -> Any:
    hub = http_hub()
    hub.run(hub.broker.create_hub(HUB, 4))

    async def fill() -> None:
        for partition in range(4):
            await hub.broker.append(HUB, partition, encode([Event(b"x", timestamp=1) for _ in range(10)]))

    hub.run(fill())
    return hub


@pytest.fixture(params=[azure.HubCheckpointStore, Blocking], ids=["blocking", "asyncio"])
def store(hub: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    store = request.param(hub.url)
    yield store
    store.close()


def claim(partition: str, owner: str, **more: Any) -> dict[str, Any]:
    return {
        "fully_qualified_namespace": NAMESPACE, "eventhub_name": HUB, "consumer_group": GROUP,
        "partition_id": partition, "owner_id": owner, **more,
    }  # fmt: skip


def test_it_is_the_sdks_interface() -> None:
    assert issubclass(azure.HubCheckpointStore, CheckpointStore)
    assert issubclass(aio.HubCheckpointStore, AsyncCheckpointStore)


def test_ownership(store: Any) -> None:
    assert list(store.list_ownership(NAMESPACE, HUB, GROUP)) == []
    first, second = store.claim_ownership([claim("0", "a"), claim("3", "a")])
    assert (first["partition_id"], second["partition_id"], first["owner_id"]) == ("0", "3", "a")
    assert first["etag"] != second["etag"]
    assert abs(first["last_modified_time"] - time.time()) < 60
    shown = list(store.list_ownership(NAMESPACE, HUB, GROUP))
    assert [(each["partition_id"], each["etag"]) for each in shown] == [("0", first["etag"]), ("3", second["etag"])]
    assert {key: shown[0][key] for key in ("fully_qualified_namespace", "eventhub_name", "consumer_group")} == {
        "fully_qualified_namespace": NAMESPACE, "eventhub_name": HUB, "consumer_group": GROUP,
    }  # fmt: skip
    assert list(store.claim_ownership([claim("0", "b"), claim("0", "b", etag="other")])) == []
    [renewed] = store.claim_ownership([first])
    assert renewed["etag"] != first["etag"]
    assert list(store.claim_ownership([{**first, "owner_id": "b"}])) == []
    [released] = store.claim_ownership([{**renewed, "owner_id": ""}])
    [taken] = store.claim_ownership([{**released, "owner_id": "b"}])
    assert taken["owner_id"] == "b"
    assert list(store.list_ownership(NAMESPACE, HUB, "other")) == []


def test_checkpoints_are_the_groups_positions(store: Any, hub: Any) -> None:
    assert list(store.list_checkpoints(NAMESPACE, HUB, GROUP)) == []
    store.update_checkpoint({**claim("1", ""), "sequence_number": 4, "offset": "4"})
    store.update_checkpoint({**claim("2", ""), "sequence_number": None, "offset": "9"})
    rows = [(each["partition_id"], each["offset"], each["sequence_number"])
            for each in store.list_checkpoints(NAMESPACE, HUB, GROUP)]  # fmt: skip
    assert rows == [("1", "4", 4), ("2", "9", 9)]
    positions = hub.run(hub.broker.positions(GROUP))
    assert {place: position.offset for place, position in positions.items()} == {(HUB, 1): 5, (HUB, 2): 10}
    hub.run(hub.broker.commit(GROUP, {(HUB, 1): Position(7), (HUB, 0): Position(0)}))
    rows = [(each["partition_id"], each["offset"]) for each in store.list_checkpoints(NAMESPACE, HUB, GROUP)]
    assert rows == [("1", "6"), ("2", "9")]  # nothing was dealt with before position 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"eventhub_name": "nowhere"}, "nowhere"),
        ({"partition_id": "4"}, "0 to 3"),
        ({"partition_id": "x"}, "numbers"),
        ({"sequence_number": 10}, "ends at 10"),
        ({"sequence_number": None, "offset": None}, "sequence number"),
        ({"consumer_group": "g" * 250}, "characters"),
    ],
)
def test_what_cannot_be_a_checkpoint(store: Any, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(GridwireError, match=reason):
        store.update_checkpoint({**claim("0", ""), "sequence_number": 1, "offset": "1", **change})


def test_what_cannot_be_claimed(store: Any) -> None:
    with pytest.raises(GridwireError, match="0 to 3"):
        store.claim_ownership([claim("0", "a"), claim("4", "a")])
    assert list(store.list_ownership(NAMESPACE, HUB, GROUP)) == []
    with pytest.raises(GridwireError, match="nowhere"):
        store.list_ownership(NAMESPACE, "nowhere", GROUP)


def test_of_many_who_claim_at_once_one_wins(hub: Any) -> None:
    barrier, won, failures = threading.Barrier(8), [], []

    def compete(owner: str) -> None:
        try:
            mine = azure.HubCheckpointStore(hub.url)
            barrier.wait(30)
            for partition in "0123":
                won.extend((each["partition_id"], owner) for each in mine.claim_ownership([claim(partition, owner)]))
            mine.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=compete, args=(f"o{n}",), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert sorted(partition for partition, _ in won) == ["0", "1", "2", "3"]


def test_control_without_the_etag_check_many_win(tmp_path: Any) -> None:
    """The negative control: a store that looks and writes in two steps lets several win."""

    async def compete() -> int:
        broker = await EmbeddedBroker.open(tmp_path, "os")
        await broker.create_hub(HUB, 1)
        held = Claims(broker, ManualClock())

        async def careless(owner: str) -> int:
            if held.held(GROUP, HUB):
                return 0
            await asyncio.sleep(0)
            newest = [each.etag for each in held.held(GROUP, HUB)]
            return len(await held.claim(GROUP, HUB, [Claim(0, owner, newest[0] if newest else None)]))

        won = 0
        first = asyncio.gather(*(careless(f"o{n}") for n in range(4)))
        won += sum(await first)
        for n in range(3):
            newest = held.held(GROUP, HUB)[0].etag  # reads the version again instead of keeping what it had seen
            won += len(await held.claim(GROUP, HUB, [Claim(0, f"late{n}", newest)]))
        await broker.close()
        return won

    assert asyncio.run(compete()) > 1


def test_claims_and_their_age_survive_a_restart_and_a_deleted_hub_takes_its_own_along(tmp_path: Any) -> None:
    async def live() -> None:
        clock = ManualClock()
        broker = await EmbeddedBroker.open(tmp_path, "fsync")
        for name in (HUB, "others"):
            await broker.create_hub(name, 2)
        held = Claims(broker, clock)
        [mine] = await held.claim("g/1 ü", HUB, [Claim(1, "a")])
        await held.claim("g", "others", [Claim(0, "a")])
        await broker.close()
        broker = await EmbeddedBroker.open(tmp_path, "fsync")
        clock.advance(5)
        held = Claims(broker, clock)
        [again] = held.held("g/1 ü", HUB)
        assert (again.partition, again.owner, again.etag, again.age_ms) == (1, "a", mine.etag, 5000)
        await broker.delete_hub("others")
        clock.advance(claims.FORGOTTEN_MS / 1000)
        await held.claim("g", HUB, [Claim(0, "a")])
        assert len(list(broker.kept(claims.PREFIX))) == 2
        await broker.close()

    asyncio.run(live())


def test_limits(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CLAIMS_MAX", 2)

    async def live() -> None:
        broker = await EmbeddedBroker.open(tmp_path, "os")
        await broker.create_hub(HUB, 4)
        held = Claims(broker, ManualClock())
        one, _ = await held.claim("g", HUB, [Claim(0, "a"), Claim(1, "a")])
        with pytest.raises(InvalidSetting, match="claims already"):
            await held.claim("g", HUB, [Claim(2, "a")])
        assert len(await held.claim("g", HUB, [Claim(0, "b", one.etag)])) == 1
        with pytest.raises(InvalidSetting, match="characters"):
            await held.claim("g", HUB, [Claim(0, "x" * 300, one.etag)])
        await broker.close()

    asyncio.run(live())


def test_no_hub_is_said_so() -> None:
    store = azure.HubCheckpointStore("http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no hub answers"):
        store.list_ownership(NAMESPACE, HUB, GROUP)
    store.close()
