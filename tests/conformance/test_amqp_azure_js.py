"""The unmodified @azure/event-hubs from npm against the AMQP head, on loopback, over TLS and over WebSocket."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import fetch_node  # noqa: E402

CASE_S = 100.0
PARTITIONS = {"processors": 4}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def modules(absent: Any) -> Path:
    try:
        return fetch_node.fetch(HERE / "js_azure")
    except fetch_node.NodeUnavailable as problem:
        absent(f"no @azure/event-hubs: {problem}")
        raise


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    running = hub_process(tmp_path_factory.mktemp("azure-js") / "data", "--no-workers")
    yield running
    running.stop()


@pytest.fixture
def case(modules: Path) -> Callable[..., None]:
    def run(name: str, connection_string: str, cli: Any, way: str = "tcp", **environment: str) -> None:
        hub_name = f"js-{next(_numbers)}"
        cli("hub", "create", hub_name, "--partitions", str(PARTITIONS.get(name, 2)))
        command = ["node", str(HERE / "js_azure" / "eventhubs.mjs"), name, connection_string, hub_name, way]
        found = {**fetch_node.environment(modules), **environment}
        done = subprocess.run(command, env=found, capture_output=True, text=True, timeout=CASE_S, check=False)
        assert done.stdout == "passed\n", done.stderr[-4000:]

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
