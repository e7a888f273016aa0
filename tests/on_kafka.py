"""Tests of heads again, over a Kafka cluster: the very functions that run over the embedded broker.

A test file calls `take` with a module of tests and what of it does not apply, and why. What that module starts is then
a gateway: `http_hub`, a head over a broker in this process, or `start_hub` and `hub_process`, the real program.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from brokers import KafkaStore
from hub_process import HubProcess
from kafka_cluster import KafkaCluster

_TESTS = Path(__file__).resolve().parent


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


def prefix_of(data: Path) -> str:
    """A gateway that is started again in the same directory finds what it had."""
    return f"t{hashlib.sha256(bytes(data)).hexdigest()[:12]}."


@pytest.fixture(scope="module")
def hub_process(kafka: KafkaCluster) -> Callable[..., Any]:
    """As the fixture of that name, with a cluster as its broker."""

    def start(data: Path, *flags: str, **options: Any) -> Any:
        prefix = prefix_of(data)
        gateway = HubProcess(data, "--broker", kafka.url, "--broker-prefix", prefix, *flags, **options)
        gateway.prefix = prefix
        return gateway

    return start


@pytest.fixture
def start_hub(hub_process: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """As the fixture of that name, with a cluster as their broker."""
    started: list[Any] = []

    def start(*flags: str, data: Path | None = None, **options: Any) -> Any:
        started.append(hub_process(data or tmp_path / "data", *flags, **options))
        return started[-1]

    yield start
    for hub in started:
        hub.stop()


def take(module: str, left_out: Mapping[str, str], into: dict[str, Any], **fixtures: Any) -> None:
    """Put a module's tests and fixtures into a test file.

    Args:
        module: its path below `tests`, without ending.
        left_out: names of tests that do not apply, and the reason of each.
        fixtures: in place of the module's own.
    """
    spec = importlib.util.spec_from_file_location(f"on_kafka_{Path(module).name}", _TESTS / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    names = {name for name in vars(loaded) if name.startswith("test_")}
    assert not left_out.keys() - names, "a test that is left out does not exist"
    own = {name for name, value in vars(loaded).items() if isinstance(value, type(http_hub))}
    into.update({name: vars(loaded)[name] for name in (names | own) - left_out.keys()})
    into.update(http_hub=http_hub, hub_process=hub_process, start_hub=start_hub, **fixtures)
    if hasattr(loaded, "pytestmark"):
        into["pytestmark"] = loaded.pytestmark
