"""Deployed apps while hub, host and deployments are cut down: effects once, no stall, versions one after the other.

Negative controls: what the function writes outside the hub is there more than once, so the kills did hit
calls under way; and without the lock on the app a new version runs beside the old one's code, which the function itself
notices.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request

import psutil
import pytest

from gridwire.functions import package

APP = """
import fcntl, os, time
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    busy = open(os.path.join(HERE, "busy"), "w")
    try:
        fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("overlap")
    for event in events:
        note(VERSION + " " + event.get_body().decode())
    wait_for(os.path.join(HERE, "gate"))
    return [VERSION.encode() + b" " + event.get_body() for event in events]

def note(line):
    with open(os.path.join(HERE, "side"), "a") as side:
        side.write(line + "\\n")

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
"""

DEAF = """
import ctypes, sys
LIBC = ctypes.PyDLL(None)  # keeps Python's lock while called: no thread of the worker notices that its host is gone

def wait_for(path):
    sys.setswitchinterval(1000)
    while LIBC.access(path.encode(), 0):
        LIBC.usleep(5000)
    sys.setswitchinterval(0.005)
"""


def code(here, version, more=""):
    return f"HERE, VERSION = {str(here)!r}, {version!r}\n{APP}{more}"


def side(here):
    path = here / "side"
    return path.read_text().splitlines() if path.exists() else []


def bodies(lines):
    return [line.partition(" ")[2] for line in lines]


def put(hub, data):
    request = urllib.request.Request(
        f"{hub.http}/v1/functions/app", data, {"content-type": "application/zip"}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert answer.status == 201


def app_of(hub):
    return next(row for row in hub.get("/v1/functions")["apps"] if row["app"] == "app")


def host_pid(hub):
    rows = [row for row in hub.get("/v1/status")["workers"] if row["name"] == "fn.app"]
    return rows[0]["pid"] if rows and rows[0]["state"] == "running" else None


def out(hub):
    events = hub.get("/v1/hubs/out/events?partition=0&offset=0&limit=10000")["events"]
    return sorted(str(event["value"]) for event in events)


def send(hub, first, last):
    body = "\n".join(f"e{number:03}" for number in range(first, last)).encode()
    for line in body.split(b"\n"):
        request = urllib.request.Request(f"{hub.http}/v1/hubs/in/events", line, {"content-type": "text/plain"})
        urllib.request.urlopen(request, timeout=60).read()


def test_kills_of_host_and_hub_during_work_and_deployment(start_hub, hub_process, write_app, until, tmp_path):
    data = tmp_path / "data"
    hub = start_hub("--amqp-port", "off", data=data)
    for name in ("in", "out"):
        body = b'{"name":"%s","partitions":1}' % name.encode()
        urllib.request.urlopen(urllib.request.Request(f"{hub.http}/v1/hubs", body), timeout=60).close()
    put(hub, package.pack(write_app(code(tmp_path, "v1"))))
    send(hub, 0, 5)
    until(lambda: side(tmp_path))
    first = len(side(tmp_path))
    os.kill(host_pid(hub), signal.SIGKILL)  # the host, while a call is under way
    until(lambda: len(side(tmp_path)) > first)
    assert bodies(side(tmp_path)).count("e000") == 2
    assert out(hub) == []

    put(hub, package.pack(write_app(code(tmp_path, "v2"))))  # the old version is told to end, and has a call under way
    until(lambda: app_of(hub)["version"] == 2 and app_of(hub)["state"] == "starting")
    hub.kill()  # the hub, in the middle of the roll-over
    hub = start_hub("--amqp-port", "off", data=data)
    until(lambda: any(line.startswith("v2") for line in side(tmp_path)))
    assert bodies(side(tmp_path)).count("e000") == 3
    (tmp_path / "gate").touch()
    until(lambda: len(out(hub)) == 5)

    send(hub, 5, 10)
    hub.kill()  # the hub, while there is work
    hub = start_hub("--amqp-port", "off", data=data)
    send(hub, 10, 15)
    until(lambda: len(out(hub)) >= 15)
    until(lambda: app_of(hub)["functions"][0]["lag_events"] == 0)
    assert out(hub) == [f"v2 e{number:03}" for number in range(15)]
    assert "overlap" not in side(tmp_path)


@pytest.fixture
def run_version(hub, write_app, tmp_path):
    """Start a version's host as the supervisor does, without a supervisor; `weak`: without the lock on the app."""
    running = []

    def run(version, weak=False):
        directory = write_app(code(tmp_path, version, DEAF), name=version)
        prelude = (
            "import os, gridwire.functions.run as r; r.locked = lambda path: os.open(os.devnull, 0)\n" if weak else ""
        )
        argv = ["worker", "functions", "--data", str(hub.directory), "--app", "app", "--version", version[1:]]
        argv += ["--path", str(directory)]
        program = f"{prelude}from gridwire.cli.main import main\nmain()"
        running.append(subprocess.Popen([sys.executable, "-c", program, *argv], stderr=subprocess.DEVNULL))
        return running[-1]

    yield run
    (tmp_path / "gate").touch()
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def kill_while_it_works(hub, run_version, until, here, weak):
    hub.create("in", 1)
    hub.create("out", 1)
    hub.append("in", 0, b"e1", b"e2")
    old = run_version("v1", weak)
    until(lambda: "v1 e2" in side(here))
    old.kill()
    old.wait(30)


def test_a_version_waits_for_the_code_of_the_one_before(hub, run_version, until, tmp_path):
    kill_while_it_works(hub, run_version, until, tmp_path, weak=False)
    new = psutil.Process(run_version("v2").pid)
    lock = str(hub.directory / "functions" / "app" / "lock")
    until(lambda: lock in [file.path for file in new.open_files()])
    assert side(tmp_path) == ["v1 e1", "v1 e2"]
    (tmp_path / "gate").touch()
    until(lambda: hub.position("fn.app.f", "in") == 2)
    assert side(tmp_path) == ["v1 e1", "v1 e2", "v2 e1", "v2 e2"]
    assert sorted(event.value for event in hub.events("out")) == [b"v2 e1", b"v2 e2"]


def test_negative_control_without_the_lock_two_versions_run_at_once(hub, run_version, until, tmp_path):
    kill_while_it_works(hub, run_version, until, tmp_path, weak=True)
    run_version("v2", weak=True)
    until(lambda: "overlap" in side(tmp_path))
