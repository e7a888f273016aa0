"""Qpid JMS from Maven, unmodified, against the AMQP head on a real port: all of `java_jms/Jms.java` in one JVM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import fetch_kafka  # noqa: E402
import fetch_qpid  # noqa: E402

CASES = [
    "messages", "acknowledging", "large", "many", "draining", "browsing", "refusals", "failover", "signing",
]  # fmt: skip
RUN_S = 400.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def create(hub: Any, name: str) -> None:
    told = json.dumps({"name": name, "partitions": 2}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{hub.http}/v1/hubs", told), timeout=60).close()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> dict[str, str]:
    """What each case said."""
    try:
        compiler, libs = fetch_kafka.java("javac"), fetch_qpid.fetch()
    except fetch_kafka.KafkaUnavailable as problem:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no Qpid JMS: {problem}")
    directory = tmp_path_factory.mktemp("jms")
    classpath = f"{directory}{os.pathsep}{libs}{os.sep}*"
    source = str(HERE / "java_jms" / "Jms.java")
    subprocess.run([compiler, "-cp", classpath, "-d", str(directory), source], check=True, timeout=120)
    hub = hub_process(directory / "data", "--no-workers")
    secured = hub_process(directory / "secured", "--no-workers", "--auth")
    try:
        for name in CASES:
            create(hub, f"jms-{name}")
        text = (directory / "secured" / "root.connection-string").read_text().strip()
        words = dict(part.split("=", 1) for part in text.split(";") if part)
        addresses = [each.amqp.removeprefix("amqp://") for each in (hub, secured)]
        flags = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.apache.qpid.jms.deserialization.white_list=java"]
        command = [fetch_kafka.java(), *flags, "-cp", classpath, "Jms", addresses[0], "jms-", addresses[1]]
        command += [words["SharedAccessKeyName"], words["SharedAccessKey"]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    finally:
        secured.stop()
        hub.stop()
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", CASES)
def test_case(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == "passed"
