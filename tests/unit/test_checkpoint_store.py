"""The checkpoint store for Azure's event processor: claims with etags, checkpoints that are the group's positions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gridwire.azure import HubCheckpointStore
from gridwire.azure.aio import HubCheckpointStore as AsyncHubCheckpointStore
from gridwire.core.batch import Event, encode
from gridwire.core.errors import GridwireError, InvalidSetting, Unavailable

NAMESPACE, GROUP = "localhost", "$Default"


@pytest.fixture
def hub(http_hub: Callable[..., Any]) -> Any:
    hub = http_hub()
    hub.run(hub.broker.create_hub("readings", 2))

    async def fill() -> None:
        await hub.broker.append("readings", 0, encode([Event(b"%d" % number) for number in range(10)]))

    hub.run(fill())
    return hub


@pytest.fixture
def store(hub: Any) -> Iterator[HubCheckpointStore]:
    store = HubCheckpointStore(hub.url)
    yield store
    store.close()


def ownership(partition: int, owner: str, etag: str | None = None) -> dict[str, Any]:
    return {
        "fully_qualified_namespace": NAMESPACE, "eventhub_name": "readings", "consumer_group": GROUP,
        "partition_id": str(partition), "owner_id": owner, "etag": etag, "last_modified_time": None,
    }  # fmt: skip


def checkpoint(sequence_number: int | None, partition: int = 0) -> dict[str, Any]:
    return {
        "fully_qualified_namespace": NAMESPACE, "eventhub_name": "readings", "consumer_group": GROUP,
        "partition_id": str(partition), "sequence_number": sequence_number, "offset": None,
    }  # fmt: skip


def test_of_two_who_claim_one_loses(store: HubCheckpointStore) -> None:
    [mine] = store.claim_ownership([ownership(0, "a")])
    assert (mine["owner_id"], mine["partition_id"], mine["consumer_group"]) == ("a", "0", GROUP)
    assert list(store.claim_ownership([ownership(0, "b")])) == []
    [kept] = store.list_ownership(NAMESPACE, "readings", GROUP)
    assert (kept["owner_id"], kept["etag"]) == ("a", mine["etag"])
    [renewed] = store.claim_ownership([ownership(0, "a", mine["etag"])])
    assert list(store.claim_ownership([ownership(0, "b", mine["etag"])])) == []
    [stolen, fresh] = store.claim_ownership([ownership(0, "b", renewed["etag"]), ownership(1, "b")])
    assert [each["owner_id"] for each in (stolen, fresh)] == ["b", "b"]


def test_claims_outlive_the_store_and_show_their_age(hub: Any, store: HubCheckpointStore) -> None:
    [mine] = store.claim_ownership([ownership(1, "a")])
    [seen] = HubCheckpointStore(hub.url).list_ownership(NAMESPACE, "readings", GROUP)
    assert seen["etag"] == mine["etag"]
    assert abs(seen["last_modified_time"] - mine["last_modified_time"]) < 30


def test_a_checkpoint_is_the_position_of_the_group(hub: Any, store: HubCheckpointStore) -> None:
    assert list(store.list_checkpoints(NAMESPACE, "readings", GROUP)) == []
    store.update_checkpoint(checkpoint(4))
    assert hub.run(hub.broker.positions(GROUP))["readings", 0].offset == 5
    [told] = store.list_checkpoints(NAMESPACE, "readings", GROUP)
    assert (told["partition_id"], told["sequence_number"], told["offset"]) == ("0", 4, "4")


def test_what_cannot_be_is_refused(store: HubCheckpointStore) -> None:
    with pytest.raises(InvalidSetting, match="sequence number"):
        store.update_checkpoint(checkpoint(None))
    with pytest.raises(GridwireError, match="ends at 10"):
        store.update_checkpoint(checkpoint(10))
    with pytest.raises(GridwireError, match="partitions 0 to 1"):
        store.update_checkpoint(checkpoint(0, partition=7))
    with pytest.raises(GridwireError, match="no hub"):
        store.list_ownership(NAMESPACE, "other", GROUP)
    with pytest.raises(GridwireError, match="partitions 0 to 1"):
        store.claim_ownership([ownership(9, "a")])


def test_the_same_for_asyncio(hub: Any) -> None:
    async def main() -> None:
        store = AsyncHubCheckpointStore(hub.url)
        [mine] = await store.claim_ownership([ownership(0, "a")])
        assert list(await store.claim_ownership([ownership(0, "b")])) == []
        [seen] = await store.list_ownership(NAMESPACE, "readings", GROUP)
        assert seen["etag"] == mine["etag"]
        await store.update_checkpoint(checkpoint(0))
        [told] = await store.list_checkpoints(NAMESPACE, "readings", GROUP)
        assert told["sequence_number"] == 0
        await store.close()

    asyncio.run(main())


def test_a_hub_that_is_not_there_is_named() -> None:
    store = HubCheckpointStore("http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        store.list_ownership(NAMESPACE, "readings", GROUP)
    store.close()
