"""`gridwire fn start` and `gridwire dlq` as a person uses them, against a hub in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import guide

APP = """
import os, pathlib
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    mended = pathlib.Path(__file__).with_name("mended").exists()
    for event in events:
        if event.get_body().startswith(b"bad") and not mended:
            raise ValueError("cannot take it")
    return [event.get_body() for event in events]
"""


class Started:
    """`gridwire fn start` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gridwire", "fn", "start", *arguments, "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline().strip()]
        while self.lines[-1] and not self.lines[-1].startswith("function "):
            self.lines.append(self.process.stdout.readline().strip())

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        return code


@pytest.fixture
def started():
    running = []

    def start(*arguments):
        running.append(Started(*arguments))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def test_start_and_dead_letters_from_the_command_line(start_hub, started, write_app, gridwire_cli, until):
    hub = start_hub("--amqp-port", "off")
    hub.cli("hub", "create", "in", "--partitions", "1")
    directory = write_app(APP)
    app = started(str(directory), "--hub", hub.http)
    assert app.lines[0] == "ready", app.lines
    assert app.lines[-1] == "function f reads hub in"
    hub.cli("send", "in", "good", '{"bad": 1}', "bad  json", "bad")

    def listed():
        return json.loads(hub.cli("dlq", "list", "-o", "json").stdout)

    until(lambda: [row["waiting"] for row in listed()] == [2])
    assert listed() == [{"function": "app.f", "letters": 2, "waiting": 2}]
    [row] = until(lambda: hub.get("/v1/functions")["apps"])  # the host tells the hub how it is
    assert (row["app"], row["deployed"], row["state"]) == ("app", False, "running")
    assert (row["functions"][0]["letters"], row["functions"][0]["when"]) == (2, "reads hub in")
    letters = json.loads(hub.cli("dlq", "show", "app.f", "-o", "json").stdout)
    assert [(row["value"], row["at"], row["reason"]) for row in letters] == [
        ("bad  json", "2", "ValueError: cannot take it"), ("bad", "3", "ValueError: cannot take it"),
    ]  # fmt: skip
    assert "function_app.py" in hub.cli("dlq", "show", "app.f", "--offset", "1").stdout
    assert "no dead letter" in hub.cli("dlq", "show", "app.f", "--offset", "9", check=False).stderr
    (directory / "mended").touch()
    assert hub.cli("dlq", "replay", "app.f").stdout == "2 events given to app.f again\n"

    def out():
        pages = [hub.get(f"/v1/hubs/out/events?partition={number}&offset=0") for number in range(4)]
        return sorted(str(event["value"]) for page in pages for event in page["events"])

    until(lambda: len(out()) == 4)
    assert out() == ["bad", "bad  json", "good", "{'bad': 1}"]
    assert listed()[0]["waiting"] == 0
    assert hub.cli("dlq", "replay", "app.f").stdout == "0 events given to app.f again\n"
    assert app.stop() == 0


def test_files_that_change_are_run_without_losing_an_event(start_hub, started, write_app, until):
    hub = start_hub("--amqp-port", "off")
    hub.cli("hub", "create", "in", "--partitions", "1")
    hub.cli("hub", "create", "out", "--partitions", "1")
    directory = write_app(APP)
    app = started(str(directory), "--hub", hub.http, "--reload")

    def out():
        return [str(event["value"]) for event in hub.get("/v1/hubs/out/events?partition=0&offset=0")["events"]]

    hub.cli("send", "in", "first")
    until(lambda: out() == ["first"])
    (directory / "function_app.py").write_text("this is no Python\n")  # does not load: the old one goes on
    hub.cli("send", "in", "second")
    until(lambda: out() == ["first", "second"])
    changed = APP.replace("[event.get_body() for event in events]", "[b'new ' + event.get_body() for event in events]")
    (directory / "function_app.py").write_text(changed)
    assert app.process.stdout.readline() == "ready\n"  # the new one
    hub.cli("send", "in", "third")
    until(lambda: out() == ["first", "second", "new third"])
    assert app.stop() == 0


def test_mistakes_are_one_sentence_each(gridwire_cli, tmp_path, write_app):
    directory = write_app(APP)
    for arguments, part in (
        ((str(tmp_path / "nowhere"),), "is not a directory"),
        ((str(directory), "--hub", str(tmp_path)), "start one with `gridwire up`"),
    ):
        done = gridwire_cli("fn", "start", *arguments, check=False)
        assert done.returncode in (1, 3)
        assert part in done.stderr
        assert done.stderr.count("\n") == 1
    assert "APP.FUNCTION" in gridwire_cli("dlq", "show", "f", check=False).stderr


def test_the_tutorials_five_commands(hub_process, until, tmp_path):
    root = Path(__file__).parents[2]
    commands = [shlex.split(each.text) for each in guide.commands("functions.md")]
    assert [command[:2] for command in commands] == [
        ["pip", "install"], ["gridwire", "up"], ["gridwire", "hub"], ["gridwire", "fn"], ["gridwire", "send"],
    ]  # fmt: skip
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert commands[0][2] == "gridwire[functions]"
    assert all(importlib.metadata.version(name.partition(">")[0]) for name in extra["functions"])
    assert commands[1][2:] == ["--data", "gridwire-data"]
    assert commands[3][2] == "deploy"
    hub = hub_process(tmp_path / "gridwire-data", "--amqp-port", "off")
    try:
        hub.cli(*commands[2][1:])
        told = hub.cli("fn", "deploy", str(root / commands[3][3])).stdout.splitlines()
        assert told[0].startswith("alerts version 1 is running")
        assert told[1] == "function high_load reads hub readings"
        hub.cli(*commands[4][1:])
        told = until(
            lambda: [
                event["value"]
                for number in range(4)
                for event in hub.get(f"/v1/hubs/alerts/events?partition={number}&offset=0")["events"]
            ]
        )
        assert told == [{"meter": "m-0042", "kw": 7.5}]
    finally:
        hub.stop()


def gridwire(*arguments):
    command = [sys.executable, "-m", "gridwire", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("more", [(), ("--columns",)])
def test_a_new_app_runs_as_it_was_written(tmp_path, more):
    made = gridwire("fn", "new", str(tmp_path / "overload"), "--output", "high", *more)
    assert made.returncode == 0, made.stderr
    events = ['{"meter":"m-1","kw":9}', '{"meter":"m-2","kw":2}']
    ran = gridwire("fn", "invoke", str(tmp_path / "overload"), "overload", *events)
    assert ran.returncode == 0, ran.stderr
    line, *_ = ran.stdout.splitlines()
    hub, _, value = line.partition("  ")
    assert hub == "high"
    assert json.loads(value) == {"meter": "m-1", "kw": 9}
    again = gridwire("fn", "new", str(tmp_path / "overload"))
    assert again.returncode != 0
    assert "is there already" in again.stderr


@pytest.mark.parametrize("arguments", [("Overload",), ("../x y",), ("ok", "--trigger", "no/hub")])
def test_a_new_app_needs_names_that_can_be(tmp_path, arguments):
    refused = gridwire("fn", "new", str(tmp_path / arguments[0]), *arguments[1:])
    assert refused.returncode != 0
    assert refused.stderr.startswith("gridwire: ")
    assert not (tmp_path / arguments[0]).exists()
