"""docs/howto/five-minutes.md: the first five minutes of somebody new, on the demo as it starts for him."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guide

PAGE = "five-minutes.md"
TOOLS = ("curl", "kcat")

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("simbench") is None, reason="needs gridwire[demo]"),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)), reason="needs curl and kcat; `make test` installs them as root"
    ),
    pytest.mark.slow,
    pytest.mark.timeout(400),
]


@pytest.fixture
def endpoints(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where a running demo says that its heads are."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
    ports = ("--kafka-port", "0", "--amqp-port", "0", "--http-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "gridwire", "demo", *ports],
        cwd=tmp_path, env=environment | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    found: dict[str, str] = {}
    try:
        for line in process.stdout:
            name, _, address = line.strip().partition(" ")
            found[name] = address.strip()
            if {"kafka", "amqp", "http"} <= found.keys():
                break
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_page(endpoints: dict[str, str], tmp_path: Path) -> None:
    kafka, amqp, http = (endpoints[name].partition("://")[2] or endpoints[name] for name in ("kafka", "amqp", "http"))
    install, demo, *rest = guide.commands(PAGE)
    assert install.text.startswith("pip install ")
    assert demo.text == "gridwire demo"
    addresses = {"127.0.0.1:9092": kafka, "127.0.0.1:5672": amqp}
    for name, text in guide.files(PAGE).items():
        (tmp_path / name).write_text(text.replace("127.0.0.1:5672", amqp))
    shell = guide.Shell(tmp_path, f"http://{http.partition('/')[0]}", addresses)
    for command in rest:
        if command.text.startswith(("gridwire tail", "gridwire sql")):
            guide.run_until_shown(shell, command)
        else:
            command.check(shell.run(command.text))
