"""Unmodified JavaScript clients from npm against a hub that runs as a user runs it: kafkajs and @platformatic/kafka."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import admin as ck_admin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def clients(node_clients: Any) -> Any:
    return node_clients("js")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("kafka-js") / "data")
    yield running
    running.stop()


@pytest.fixture
def case(hub: Any, clients: Any) -> Callable[..., None]:
    def run(client: str, name: str, *more: str, partitions: int = 0) -> None:
        topic = f"js-{next(_numbers)}"
        if partitions:
            admin = ck_admin.AdminClient({"bootstrap.servers": hub.kafka, "log_level": 0})
            admin.create_topics([ck_admin.NewTopic(topic, partitions, 1)])[topic].result(30)
        clients.run(f"{client}.mjs", name, hub.kafka, topic, *more)

    return run


CLIENTS = ["kafkajs", "platformatic"]


@pytest.mark.parametrize("client", CLIENTS)
def test_codecs_offsets_and_times(case: Callable[..., None], client: str) -> None:
    case(client, "codecs", partitions=1)


@pytest.mark.parametrize("client", CLIENTS)
def test_group_rebalances_and_commits(case: Callable[..., None], client: str) -> None:
    case(client, "group", partitions=6)


def test_group_of_the_new_protocol(case: Callable[..., None]) -> None:
    case("platformatic", "group", "consumer", partitions=6)


@pytest.mark.parametrize("client", CLIENTS)
def test_administration(case: Callable[..., None], client: str) -> None:
    case(client, "admin")
