"""Fixtures: a real Apache Kafka for tests.

`kafka` is one node for the whole test run; `kafka_three` makes three nodes for one test module. Without Java or Maven
the tests are skipped with the reason; with CI=true that is a failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import fetch_kafka
from local_kafka import PASSWORD, START_S, USER, KafkaCluster, Node, free_port

__all__ = ["PASSWORD", "START_S", "USER", "KafkaCluster", "Node", "free_port", "kafka", "kafka_three", "required"]


def required() -> None:
    """Skip when there can be no Kafka here; with CI=true that is a failure."""
    try:
        fetch_kafka.java()
        fetch_kafka.fetch()
    except fetch_kafka.KafkaUnavailable as problem:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI requires Apache Kafka: {problem}")
        pytest.skip(f"no Apache Kafka: {problem}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One node for the whole test run. Tests must not stop it, and use names of their own (or a prefix)."""
    required()
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def kafka_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three nodes, replication factor 3, min.insync 2. A test that kills nodes starts them again."""
    required()
    with KafkaCluster(tmp_path_factory.mktemp("kafka3"), 3) as cluster:
        yield cluster
