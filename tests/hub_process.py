"""The real program as a process, and `gridwire` commands as a user gives them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

START_S = 60.0


class HubProcess:
    """`gridwire up` as a user starts it, on free loopback ports.

    Args:
        prelude: Python that the process runs first; a negative control weakens a rule there.
        environment: variables on top of those of the test.
    """

    def __init__(
        self,
        data: Path,
        *flags: str,
        kafka_port: str = "0",
        http_port: str = "0",
        prelude: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        program = ["-c", f"{prelude}\nfrom gridwire.cli.main import main\nmain()"] if prelude else ["-m", "gridwire"]
        command = [sys.executable, *program, "up", "--data", str(data)]
        command += ["--kafka-port", kafka_port, "--http-port", http_port, *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(environment or {})}
            )
        self.kafka = self.amqp = self.amqps = self.http = ""
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
    *arguments: str, url: str | None = None, check: bool = True, text: str | None = None, ca: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `gridwire` command as a user would. `ca`: authorities that vouch for the hub."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_") or "AMQP" in name
    }
    if url:
        environment["GRIDWIRE_URL"] = url
    if ca:
        environment["GRIDWIRE_CA_FILE"] = str(ca)
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
