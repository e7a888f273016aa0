"""The unmodified @azure/event-hubs from npm against the AMQP head, on loopback, over TLS and over WebSocket."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PARTITIONS = {"processors": 4}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def clients(node_clients: Any) -> Any:
    return node_clients("js_azure")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("azure-js") / "data", "--no-workers")
    yield running
    running.stop()


@pytest.fixture
def case(clients: Any) -> Callable[..., None]:
    def run(name: str, connection_string: str, cli: Any, way: str = "tcp", **environment: str) -> None:
        hub_name = f"js-{next(_numbers)}"
        cli("hub", "create", hub_name, "--partitions", str(PARTITIONS.get(name, 2)))
        clients.run("eventhubs.mjs", name, connection_string, hub_name, way, **environment)

    return run


@pytest.mark.parametrize("name", ["sends", "positions", "latest", "owner", "processors"])
def test_on_loopback(case: Callable[..., None], hub: Any, name: str) -> None:
    address = hub.amqp.removeprefix("amqp://")
    signed = "SharedAccessKeyName=anybody;SharedAccessKey=secret;UseDevelopmentEmulator=true;"
    case(name, f"Endpoint=sb://{address};{signed}", hub.cli)


@pytest.mark.parametrize(
    ("name", "way"), [("positions", "amqps"), ("positions", "websocket"), ("refused", "amqps")]
)  # fmt: skip
def test_with_keys(case: Callable[..., None], secured: Any, name: str, way: str) -> None:
    text = secured.text(secured.port(way))
    kind = "ws" if way == "websocket" else "tcp"
    case(name, text, secured.cli, kind, NODE_EXTRA_CA_CERTS=str(secured.ca))
