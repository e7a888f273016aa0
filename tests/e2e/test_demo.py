"""`gridwire demo` from the outside: what it prints, that it agrees with itself, and that it goes on where it was."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("simbench") is None, reason="needs gridwire[demo]"),
    pytest.mark.timeout(400),
]


def run_demo(gridwire_cli: Any, data: Path, seconds: int) -> str:
    ports = ("--kafka-port", "0", "--amqp-port", "0", "--http-port", "0")
    done = gridwire_cli("demo", "--data", str(data), "--seconds", str(seconds), "--pace", "0.25", *ports)
    assert "live sums, lake and the independent calculation agree" in done.stdout
    return str(done.stdout)


def number(text: str, name: str) -> int:
    found = re.search(rf"^{name} +([\d,]+)$", text, re.M)
    assert found, text
    return int(found[1].replace(",", ""))


def test_the_demo_agrees_and_goes_on_where_it_was(gridwire_cli: Any, tmp_path: Path) -> None:
    data = tmp_path / "demo"
    first = run_demo(gridwire_cli, data, 6)
    for told in ("page", "kafka", "http", "metrics", "three things to try", "fsync"):
        assert told in first
    assert number(first, "sums compared") > 100
    assert number(first, "rows in the lake") == number(first, "readings in the hub") > 1000
    second = run_demo(gridwire_cli, data, 6)
    assert number(second, "readings in the hub") > number(first, "readings in the hub")
    # No reading of a usage point and an interval was ever sent or stored twice.
    query = (
        "select count(*) n from (select usage_point, ts_end, reading_type from readings where interval_s = 900 "
        "group by all having count(*) > 1)"
    )
    answer = gridwire_cli("sql", query, "--data", str(data), "-o", "json")
    assert json.loads(answer.stdout) == [{"n": 0}]


def test_a_port_in_use_is_one_sentence(gridwire_cli: Any, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = (
            "demo",
            "--data",
            str(tmp_path / "demo"),
            "--kafka-port",
            port,
            "--amqp-port",
            "0",
            "--http-port",
            "0",
        )
        done = gridwire_cli(*arguments, check=False)
    assert done.returncode == 1
    assert "--kafka-port" in done.stderr
    assert "Traceback" not in done.stderr
