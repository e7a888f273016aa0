"""Pages of docs/howto: their commands, run as they stand there; only addresses are the test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOWTO: Final = Path(__file__).parents[1] / "docs" / "howto"
DEADLINE_S: Final = 150
HUB: Final = "http://127.0.0.1:8700"
"""A hub's address as pages show it."""

_FILE: Final = re.compile(r"^`([\w.-]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line that begins with `$ `, continued where it ends with a backslash.

    Args:
        heading: the section it stands in. shown: the lines below it, what it prints; `...` stands for anything.
    """

    heading: str
    text: str
    shown: tuple[str, ...] = ()

    def check(self, printed: str) -> None:
        """Raises AssertionError: something of what the page shows was not printed."""
        for line in self.shown:
            for fragment in filter(None, (part.strip() for part in line.split("..."))):
                assert fragment in printed, f"{self.text}\nprints no {fragment!r}:\n{printed}"


def commands(page: str) -> list[Command]:
    """The commands of a page in their order."""
    found: list[Command] = []
    heading, begun = "", False
    lines = iter((HOWTO / page).read_text().splitlines())
    for line in lines:
        if line.startswith("```"):
            begun = False
        elif line.startswith("## "):
            heading = line[3:]
        elif line.startswith("$ "):
            while line.endswith("\\"):
                line += "\n" + next(lines)
            found.append(Command(heading, line[2:]))
            begun = True
        elif begun and line:
            found[-1] = Command(found[-1].heading, found[-1].text, (*found[-1].shown, line))
    return found


def files(page: str) -> dict[str, str]:
    """Files that a page shows: a block below a line of the file's name in backquotes and a colon."""
    return dict(_FILE.findall((HOWTO / page).read_text()))


class Shell:
    """Runs commands in a directory, one bash each, with this environment's `gridwire`.

    Args:
        hub: address of the hub that stands for the one of the page.
        instead: what stands in the page, and what is meant here.
        tools: programs that are found before any others.
    """

    def __init__(
        self, directory: Path, hub: str, instead: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None, tools: Path | None = None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self._instead = {**(instead or {}), HUB: hub}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
        path = os.pathsep.join([*map(str, filter(None, [tools])), str(Path(sys.executable).parent), clean["PATH"]])
        self._environment = {**clean, "PATH": path, "GRIDWIRE_URL": hub, **(environment or {})}
        self.background: list[subprocess.Popen[str]] = []

    def run(self, command: str) -> str:
        """What a command prints; one that ends with `&` goes on. Raises AssertionError: it failed."""
        for shown, meant in self._instead.items():
            command = command.replace(shown, meant)
        if command.endswith("&"):
            self._start(command)
            return ""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.directory, env=self._environment, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _start(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command.removesuffix('&')}"], cwd=self.directory, env=self._environment,
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.background.append(process)
        if command.split()[1] == "up":
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """End what was started, the last one first."""
        for process in reversed(self.background):
            process.terminate()
        for process in self.background:
            process.wait(60)
            if process.stdout is not None:
                process.stdout.close()


def run_until_shown(shell: Shell, command: Command) -> None:
    """Run a command until it prints what the page shows: workers take their time."""
    end = time.monotonic() + DEADLINE_S
    while True:
        printed = shell.run(command.text)
        try:
            command.check(printed)
            return
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)
