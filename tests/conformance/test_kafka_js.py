"""Unmodified JavaScript clients from npm against a hub that runs as a user runs it: kafkajs and @platformatic/kafka."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import admin as ck_admin

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".kafka"
INSTALL_S = 300.0
CASE_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def modules() -> Path:
    """Where npm put the clients: a git-ignored cache, one directory a lock file."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no JavaScript clients: {program} is not installed")
    lock = (HERE / "js" / "package-lock.json").read_bytes()
    place = CACHE / f"js-{hashlib.sha256(lock).hexdigest()[:12]}"
    if (place / ".complete").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "js" / name, place)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    told = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if told.returncode:
        pytest.skip(f"no JavaScript clients: npm could not fetch them: {told.stderr[-300:]}")
    (place / ".complete").touch()
    return place


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
        environment = {**os.environ, "GRIDWIRE_NODE_MODULES": str(modules / "package.json")}
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
