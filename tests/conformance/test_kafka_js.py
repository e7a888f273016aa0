"""Unmodified JavaScript clients from npm against a hub that runs as a user runs it: kafkajs and @platformatic/kafka."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import admin as ck_admin

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import fetch_node  # noqa: E402

CASE_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def modules() -> Path:
    try:
        return fetch_node.fetch(HERE / "js")
    except fetch_node.NodeUnavailable as problem:
        pytest.skip(f"no JavaScript clients: {problem}")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("kafka-js") / "data")
    yield running
    running.stop()


@pytest.fixture
def case(hub: Any, modules: Path) -> Callable[..., None]:
    def run(client: str, name: str, *more: str, partitions: int = 0) -> None:
        topic = f"js-{next(_numbers)}"
        if partitions:
            admin = ck_admin.AdminClient({"bootstrap.servers": hub.kafka, "log_level": 0})
            admin.create_topics([ck_admin.NewTopic(topic, partitions, 1)])[topic].result(30)
        command = ["node", str(HERE / "js" / f"{client}.mjs"), name, hub.kafka, topic, *more]
        environment = fetch_node.environment(modules)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CASE_S, check=False)
        assert done.stdout == "passed\n", done.stderr[-4000:]

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
