"""docs/howto/service.md: every command of it, on a machine that is a directory, with a systemd that is a script."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import guide
from kafka_cluster import free_port

PAGE: Final = "service.md"
ROOT: Final = Path(__file__).parents[2]
PLACES: Final = ("/opt/", "/etc/", "/var/lib/", "/var/backups/")

SUDO: Final = '#!/bin/sh\nexec "$@"\n'
SYSTEMCTL: Final = """#!PYTHON
import os, pathlib, shlex, signal, subprocess, sys, time

root = pathlib.Path(os.environ["MACHINE"])
unit = (root / "etc/systemd/system/gridwire.service").read_text()
for place in ("/opt/", "/etc/", "/var/lib/"):
    unit = unit.replace(place, f"{root}{place}")
rows = [line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#")]
of, pid, out = dict(rows), root / "pid", root / "out"


def alive(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stop():
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGTERM)
        while alive(pid.read_text()):
            time.sleep(0.05)
        pid.unlink()


def start():
    settings = pathlib.Path(of["EnvironmentFile"].removeprefix("-")).read_text().splitlines()
    given = dict(line.split("=", 1) for line in settings) | dict(v.split("=", 1) for k, v in rows if k == "Environment")
    with out.open("w") as file:
        started = subprocess.Popen(
            shlex.split(of["ExecStart"]), env={**os.environ, **given}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )
    pid.write_text(str(started.pid))
    while "ready" not in out.read_text().splitlines():
        assert started.poll() is None, out.read_text()
        time.sleep(0.05)


verb = sys.argv[1]
if verb in ("stop", "restart"):
    stop()
if verb in ("enable", "start", "restart"):
    start()
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[guide.Shell]:
    """A shell on a machine whose directories lie in `tmp_path`, with a package index that has this version only."""
    root, port = tmp_path / "machine", free_port()
    for place in (*PLACES, "/etc/systemd/system", "/var/lib/private/gridwire"):
        (root / place.strip("/")).mkdir(parents=True)
    (root / "var/lib/gridwire").symlink_to("private/gridwire")  # as it is where the unit's user is made for it
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sudo", SUDO), ("systemctl", SYSTEMCTL.replace("PYTHON", sys.executable))):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path / "index"),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    shell = guide.Shell(
        tmp_path, f"http://127.0.0.1:{port}", {place: f"{root}{place}" for place in PLACES},
        {
            "MACHINE": str(root), "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_FIND_LINKS": str(tmp_path / "index"),
            "GRIDWIRE_HTTP_PORT": str(port), "GRIDWIRE_KAFKA_PORT": "0", "GRIDWIRE_AMQP_PORT": "off",
        },
        tools,
    )  # fmt: skip
    yield shell
    shell.run("systemctl stop gridwire")


def needs_of_gridwire(root: Path) -> None:
    """Give the environment what pip would have fetched: packages that are installed here."""
    (site,) = (root / "opt" / "gridwire" / "lib").glob("python*/site-packages")
    (site / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_of_the_page(machine: guide.Shell, tmp_path: Path) -> None:
    root = tmp_path / "machine"
    for command in guide.commands(PAGE):
        command.check(machine.run(command.text))
        if command.text.endswith("pip install gridwire"):
            needs_of_gridwire(root)
        if command.text.endswith("enable --now gridwire"):
            machine.run("gridwire send readings '{\"kw\":1}'")
    assert '"value":{"kw":1}' in machine.run(f"curl -sS '{guide.HUB}/v1/hubs/readings/events?limit=1'")
    assert '"asyncapi": "3.0.0"' in machine.run(f"curl -sS {guide.HUB}/v1/asyncapi.json")  # it is in the package
    assert not (root / "var" / "backups" / "gridwire").is_symlink()
    assert str(root / "opt" / "gridwire") in (root / "opt" / "gridwire" / "bin" / "gridwire").read_text()
