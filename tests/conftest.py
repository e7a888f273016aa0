"""Fixtures for tests that run the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_S = 60.0


class HubProcess:
    """`gridwire up` as a user starts it, on free loopback ports."""

    def __init__(self, data: Path, *flags: str, kafka_port: str = "0", http_port: str = "0") -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        command = [sys.executable, "-m", "gridwire", "up", "--data", str(data)]
        command += ["--kafka-port", kafka_port, "--http-port", http_port, *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.kafka = self.http = ""
        assert self.process.stdout is not None
        first = self.process.stdout.readline().strip()
        if first != "ready":
            self.process.wait(START_S)
            raise RuntimeError(f"the hub did not start: {self.log.read_text()}")
        while not (self.kafka or kafka_port == "off") or not (self.http or http_port == "off"):
            name, _, address = self.process.stdout.readline().strip().partition(" ")
            setattr(self, name, address)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.http + path, timeout=30) as answer:
            return json.load(answer)

    def cli(self, *arguments: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a `gridwire` command against this hub."""
        return run_cli(*arguments, url=self.http, check=check, text=text)

    def kill(self) -> None:
        """SIGKILL: no chance to write anything."""
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(60)
        self._close()
        return code

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


def run_cli(
    *arguments: str, url: str | None = None, check: bool = True, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `gridwire` command as a user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
    if url:
        environment["GRIDWIRE_URL"] = url
    done = subprocess.run(
        [sys.executable, "-m", "gridwire", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=170,
        input=text,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"gridwire {' '.join(arguments)} failed: {done.stderr or done.stdout}")
    return done


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Any]:
    """Start hubs; whatever still runs at the end is stopped."""
    started: list[HubProcess] = []

    def start(*flags: str, data: Path | None = None, **ports: str) -> HubProcess:
        hub = HubProcess(data or tmp_path / "data", *flags, **ports)
        started.append(hub)
        return hub

    yield start
    for hub in started:
        hub.stop()


@pytest.fixture
def gridwire_cli() -> Any:
    """Run a `gridwire` command without a hub."""
    return run_cli
