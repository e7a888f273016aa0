"""Transactions of the unmodified Java client, which speaks the second protocol (KIP-890)."""

from __future__ import annotations

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_java_commits_aborts_and_is_fenced(start_hub: Any, tmp_path: Path) -> None:
    try:
        compiler, libs = fetch_kafka.java("javac"), fetch_kafka.fetch()
    except fetch_kafka.KafkaUnavailable as problem:
        pytest.skip(f"no Java client: {problem}")
    classpath = f"{tmp_path}{os.pathsep}{libs}{os.sep}*"
    source = str(HERE / "java_transactions" / "Transactions.java")
    subprocess.run([compiler, "-cp", classpath, "-d", str(tmp_path), source], check=True, timeout=120)
    hub = start_hub("--durability", "os")
    hub.cli("hub", "create", "t", "--partitions", "2")
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    done = subprocess.run(
        [fetch_kafka.java(), "-Xmx256m", quiet, "-cp", classpath, "Transactions", hub.kafka, "t"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert sorted(line for line in lines if line.startswith("value")) == sorted(
        [f"value {number}.{part}" for number in (0, 2, 4) for part in range(3)] + ["value fresh"]
    )
    assert "position 4" in lines
    with urllib.request.urlopen(f"{hub.http}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    assert "EndTxn" in metrics
    assert "AddPartitionsToTxn" not in metrics, "the second protocol adds partitions by writing to them"
    assert any(line.startswith("fenced") for line in lines), done.stdout
