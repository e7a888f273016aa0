"""The HTTP head's own tests again, over a Kafka cluster: the very functions that run over the embedded broker.

A test file calls `take` with the name of a module of `tests/unit` and what of it does not apply, and why.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from brokers import KafkaStore
from kafka_cluster import KafkaCluster

_UNIT = Path(__file__).resolve().parent / "unit"


@pytest.fixture
def http_hub(kafka: KafkaCluster, http_hub_class: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """As the fixture of that name, over a cluster."""
    hubs: list[Any] = []

    def start(durability: str = "os", **options: Any) -> Any:
        hub = http_hub_class(tmp_path / f"hub{len(hubs)}", durability, options, KafkaStore(kafka.bootstrap)).start()
        hubs.append(hub)
        return hub

    yield start
    for hub in hubs:
        hub.stop()


def take(module: str, left_out: Mapping[str, str], into: dict[str, Any]) -> None:
    """Put a module's tests and fixtures into a test file.

    Args:
        left_out: names of tests that do not apply, and the reason of each.
    """
    spec = importlib.util.spec_from_file_location(f"over_kafka_{module}", _UNIT / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    names = {name for name in vars(loaded) if name.startswith("test_")}
    assert not left_out.keys() - names, "a test that is left out does not exist"
    fixtures = {name for name, value in vars(loaded).items() if isinstance(value, type(http_hub))}
    into.update({name: vars(loaded)[name] for name in (names | fixtures) - left_out.keys()}, http_hub=http_hub)
