"""A worker on a cluster where the Kafka client is not installed says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gridwire import app
from gridwire.broker.kafka_address import KafkaAddress


@pytest.mark.parametrize("name", ["grid", "vee", "watch", "rules", "forecast", "capture", "avro"])
def test_without_the_kafka_client(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of the test run stay
    monkeypatch.setitem(sys.modules, "gridwire.broker.kafka_source", None)
    options = {
        "broker": KafkaAddress.parse("kafka://127.0.0.1:1"), "supervised": False, "tables": ["a=events"], "lake": None,
        "flush_s": 1.0, "flush_mib": 1, "path": "", "namespace": "n", "window_days": 1, "late": True, "whole": False,
        "detectors": "all",
    }  # fmt: skip
    assert app.run_worker(name, tmp_path, options) == 1
    assert "pip install 'gridwire[kafka]'" in "".join(capsys.readouterr())
