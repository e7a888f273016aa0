"""Commands as a person gives them, on a real hub: ranges, filters, lag, contexts, exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridwire import contexts
from gridwire.cli import cheat
from gridwire.cli.main import app
from gridwire.cli.ranges import _paced
from gridwire.core.batch import Event


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from hub_process import HubProcess

    made = HubProcess(tmp_path_factory.mktemp("commands") / "data", "--amqp-port", "off", "--no-workers")
    yield made
    made.stop()


def events(hub: Any, name: str, partition: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hub.get(f"/v1/hubs/{name}/events?partition={partition}&limit=10000")["events"]
    return found


def plain(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["timestamp"], row["key"], row["value"], row["format"], row["headers"]) for row in rows]


def test_the_lake_of_a_hub_elsewhere_is_asked_over_http(tmp_path: Path) -> None:
    from hub_process import HubProcess

    lake_hub = HubProcess(tmp_path / "data", "--amqp-port", "off", "--lake-flush", "1")
    try:
        lake_hub.cli("hub", "create", "site", "--partitions", "1", "--capture", "events")
        said = lake_hub.cli("send", "site", '{"kw": 1.5}', "--header", "feed=a=b", "--header", "n=2").stdout
        assert "durable: yes" in said
        (event,) = events(lake_hub, "site", 0)
        assert event["headers"]["feed"] == "a=b"
        assert event["headers"]["n"] == "2"
        query = "select (value_text->>'kw')::double as kw from site"
        deadline = time.monotonic() + 60
        while (found := lake_hub.cli("sql", query, "--url", lake_hub.http, "-o", "json", check=False)).returncode:
            assert time.monotonic() < deadline, found.stderr
        assert json.loads(found.stdout) == [{"kw": 1.5}]
        here = lake_hub.cli("sql", query, "--data", str(tmp_path / "data"), "-o", "json")
        assert here.stdout == found.stdout
        refused = lake_hub.cli("send", "site", "{}", "--header", "nothing", check=False)
        assert refused.returncode != 0
        assert "NAME=VALUE" in refused.stderr
    finally:
        lake_hub.stop()


def test_a_range_is_copied_as_it_is(hub: Any) -> None:
    from confluent_kafka import Producer

    hub.cli("hub", "create", "one", "--partitions", "2", "--retention", "forever")  # these events are old
    producer = Producer({"bootstrap.servers": hub.kafka})
    values = [b'{"kw": 1.50, "big": 12345678901234567890123}', b"text", b"\xff\x00", None, b'{"kw": 9}']
    for number, value in enumerate(values * 20):
        headers = [("h", b"1"), ("h", b"\xfe"), ("n", str(number).encode())]
        producer.produce("one", value, key=f"k{number}", headers=headers, timestamp=1_700_000_000_000 + number)
    assert producer.flush(30) == 0
    assert "copied 100 events from one to two" in hub.cli("copy", "one", "two").stdout
    for partition in (0, 1):
        assert plain(events(hub, "two", partition)) == plain(events(hub, "one", partition))
    hub.cli("copy", "one", "three", "--where", "kw > 5 and header.n != 4")
    found = [row for partition in (0, 1) for row in events(hub, "three", partition)]
    assert len(found) == 19
    hub.cli("copy", "one", "four", "--from", "2023-11-14T22:13:20.050Z", "--to", "2023-11-14T22:13:20.060Z")
    found = [row for partition in (0, 1) for row in events(hub, "four", partition)]
    assert sorted(row["timestamp"] - 1_700_000_000_000 for row in found) == list(range(50, 60))
    hub.cli("hub", "create", "wide", "--partitions", "5", "--retention", "forever")
    hub.cli("copy", "one", "wide")
    assert sum(len(events(hub, "wide", partition)) for partition in range(5)) == 100
    assert "cannot be copied to itself" in hub.cli("copy", "one", "one", check=False).stderr


def test_a_replay_keeps_the_pace(hub: Any) -> None:
    hub.cli("hub", "create", "paced", "--partitions", "1")
    hub.cli("send", "paced", "1", "2", "3")
    before_ms = time.time() * 1000
    hub.cli("replay", "paced", "again", "--speed", "1000")
    found = events(hub, "again", 0)
    assert [row["value"] for row in found] == [1, 2, 3]
    assert all(row["timestamp"] >= before_ms - 1 for row in found)


def test_pace_is_told_by_timestamps(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, slept = 100.0, list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    one = [(0, Event(b"a", timestamp=0)), (0, Event(b"b", timestamp=4_000))]
    two = [(1, Event(b"c", timestamp=10)), (1, Event(b"d", timestamp=2_000))]
    groups = [[event.value for _, event in group] for group in _paced([iter(one), iter(two)], 2.0)]
    assert groups == [[b"a", b"c"], [b"d"], [b"b"]]
    assert sum(slept) == pytest.approx(2.0)


def test_tails_filter(hub: Any) -> None:
    hub.cli("send", "tailed", '{"kw": 1}', '{"kw": 7}', '{"kw": 8}')
    done = hub.cli("tail", "tailed", "--from", "earliest", "--where", "kw > 5", "-n", "2", "-o", "json")
    assert sorted(json.loads(line)["value"]["kw"] for line in done.stdout.splitlines()) == [7, 8]
    refused = hub.cli("tail", "tailed", "--where", "kw is 5", check=False)
    assert (refused.returncode, "filter not understood" in refused.stderr) == (1, True)


def test_a_reset_can_be_tried_first(hub: Any) -> None:
    hub.cli("hub", "create", "read", "--partitions", "1")
    hub.cli("send", "read", "1", "2", "3")
    hub.cli("group", "reset", "reader", "read", "--to", "latest")
    tried = hub.cli("group", "reset", "reader", "read", "--to", "1", "--dry-run")
    assert "2 events again" in tried.stdout
    assert hub.get("/v1/groups/reader")["lag_events"] == 0
    hub.cli("group", "reset", "reader", "read", "--to", "1")
    assert "read" in hub.cli("lag", "reader").stdout
    late = hub.cli("lag", "--over", "-1", "-o", "json", check=False)
    assert late.returncode == 5
    assert json.loads(late.stdout)[0]["group"] == "reader"
    assert hub.cli("lag", "--over", "100000").returncode == 0


def test_top_tells_once_where_there_is_no_terminal(hub: Any) -> None:
    shown = hub.cli("top", "--every", "0.1").stdout
    assert "ready" in shown
    assert "hub\tevents/s\tevents\tsize" in shown
    assert "rates" in json.loads(hub.cli("top", "--every", "0.1", "-o", "json").stdout)


def test_settings_tell_where_they_come_from(gridwire_cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text('partitions = 7\nhttp_port = "off"\n')
    done = gridwire_cli("config", "show", "--origin", "--config", str(file), "--kafka-port", "0", "--output", "json")
    told = json.loads(done.stdout)
    assert told["partitions"] == {"value": 7, "origin": str(file)}
    assert told["http_port"] == {"value": "off", "origin": str(file)}
    assert told["kafka_port"] == {"value": "0", "origin": "--kafka-port"}
    assert told["host"]["origin"] == "default"
    assert "partitions\t7" in gridwire_cli("config", "show", "--config", str(file)).stdout


def test_contexts(hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRIDWIRE_CONTEXTS", str(tmp_path / "deep" / "contexts.toml"))
    monkeypatch.delenv("GRIDWIRE_URL", raising=False)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gridwire", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})

    assert "no contexts yet" in run("context", "list").stdout
    secret = "Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0"
    assert run("context", "add", "plant", "--url", hub.http, "--connection-string", secret).returncode == 0
    assert contexts.path().stat().st_mode & 0o077 == 0
    assert run("hub", "list").returncode == 0
    run("context", "add", "gone", "--url", "http://127.0.0.1:1")
    assert run("hub", "list").returncode == 3
    assert run("hub", "list", GRIDWIRE_CONTEXT="plant").returncode == 0
    assert run("context", "use", "plant").returncode == 0
    shown = run("context", "list", "-o", "json")
    assert [(row["name"], row["signs in"], row["in use"]) for row in json.loads(shown.stdout)] == [
        ("gone", False, False), ("plant", True, True),
    ]  # fmt: skip
    assert "c2VjcmV0" not in shown.stdout
    assert run("context", "remove", "plant").returncode == 0
    unknown = run("context", "use", "plant")
    assert (unknown.returncode, "there is gone" in unknown.stderr) == (1, True)
    contexts.path().write_text("nonsense")
    assert "cannot read contexts" in run("hub", "list").stderr


def test_exit_codes(gridwire_cli: Callable[..., Any]) -> None:
    assert gridwire_cli("nonsense", check=False).returncode == 2
    assert gridwire_cli("hub", "create", check=False).returncode == 2
    assert gridwire_cli("hub", "list", "--url", "http://127.0.0.1:1", check=False).returncode == 3


@pytest.mark.parametrize("command", [command for _, tasks in cheat.SHEET for _, command in tasks])
def test_the_cheat_sheet_holds(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "gridwire"
    app.parse_args(words[1:], exit_on_error=False, print_error=False)
