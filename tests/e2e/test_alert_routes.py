"""Routes of alerts with the real program and a real receiver: nothing is lost, and nobody waits for another.

A telling may arrive twice, with the same CloudEvent id; none is left out, and those of one finding come in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridwire.core.batch import encode
from gridwire.grid.findings import Finding, FindingState, Severity
from webhook_receiver import Asked, Receiver, answering

pytestmark = pytest.mark.timeout(300)

NOW_US = 1_767_225_600_000_000
SECRET = "Bearer told-once-only"
EARLY = """
from gridwire.router import backlog
backlog._Lane.position = property(lambda lane: lane.next)
backlog.Backlog.beyond = lambda self: {}
"""
"""The rule weakened: a position is committed before what lies before it is delivered."""


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


def found(number: int, kind: str = "outage", **more: Any) -> Finding:
    return Finding(
        kind=kind, subject_kind="transformer", subject=f"T{number}", started_us=NOW_US, severity=Severity.CRITICAL,
        confidence=0.9, detector="outages", **more,
    )  # fmt: skip


def tell(hub: Any, *findings: Finding) -> None:
    """As detectors do: a finding's tellings on the partition of its subject."""
    for partition in (0, 1):
        events = [f.to_event(int(time.time() * 1000)) for f in findings if int(f.subject[1:]) % 2 == partition]
        if events:
            url, kind = f"{hub.http}/v1/hubs/grid.alerts/events", {"content-type": "application/vnd.gridwire.batch"}
            sent = httpx.post(url, params={"partition": partition}, content=bytes(encode(events)), headers=kind)
            sent.raise_for_status()


def add(hub: Any, name: str, receiver: Receiver, **more: Any) -> dict[str, Any]:
    body = {"name": name, "url": receiver.url, **more}
    answer = httpx.post(f"{hub.http}/v1/alert-routes", json=body, timeout=60)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def route(hub: Any, name: str) -> dict[str, Any]:
    told: dict[str, Any] = hub.get(f"/v1/alert-routes/{name}")
    return told


def letters(hub: Any, name: str) -> list[dict[str, Any]]:
    """Dead letters of a route. A gateway learns of a topic that a worker made within seconds."""
    until(lambda: f"dlq.alert-route.{name}" in {row["name"] for row in hub.get("/v1/hubs")["hubs"]}, "there is a hub")
    rows: list[dict[str, Any]] = json.loads(hub.cli("dlq", "show", f"alert-route.{name}", "--output=json").stdout)
    return rows


def make_hub(hub: Any) -> Any:
    httpx.post(f"{hub.http}/v1/hubs", json={"name": "grid.alerts", "partitions": 2}, timeout=60).raise_for_status()
    return hub


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(agrees=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hub(hub_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all routes that nobody dies for."""
    running = hub_process(tmp_path_factory.mktemp("routes") / "data")
    yield make_hub(running)
    running.stop()


def missed(start_hub: Callable[..., Any], tmp_path: Path, receiver: Receiver, prelude: str = "") -> set[str]:
    """Findings that a receiver never took which was down while they were told, and while their hub was killed."""
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "sitecustomize.py").write_text(prelude)
    environment = {"PYTHONPATH": str(tmp_path / "rule")}
    hub = make_hub(start_hub(data=tmp_path / "data", environment=environment))
    receiver.always(answering(503))
    add(hub, "ops", receiver)
    findings = [found(number) for number in range(40)]
    tell(hub, *findings)
    until(lambda: route(hub, "ops")["tries_failed"], "a try failed, and it was committed")
    (worker,) = [row["pid"] for row in hub.get("/v1/status")["workers"] if row["name"] == "router"]
    hub.kill()
    with contextlib.suppress(ProcessLookupError):  # it ends by itself, and would deliver a little more before it does
        os.kill(worker, signal.SIGKILL)
    receiver.always(answering(200))
    tries = len(receiver.asked)
    again = start_hub(data=tmp_path / "data", environment=environment)
    tell(again, found(1000))
    until(lambda: any(row["subject"] == "T1000" for row in receiver.taken()), "the route goes on")
    until(lambda: route(again, "ops")["waiting"] == 0, "all is dealt with")
    assert len(receiver.asked) > tries
    return {finding.id for finding in findings} - {row["id"] for row in receiver.taken()}


def test_nothing_is_lost_when_the_receiver_is_down_and_the_hub_is_killed(
    start_hub: Callable[..., Any], tmp_path: Path, receiver: Receiver
) -> None:
    assert missed(start_hub, tmp_path, receiver) == set()


def test_control_a_position_committed_too_early_loses_findings(
    start_hub: Callable[..., Any], tmp_path: Path, receiver: Receiver
) -> None:
    assert missed(start_hub, tmp_path, receiver, EARLY)


def test_tellings_of_a_finding_come_in_order_through_a_receiver_that_fails_now_and_then(
    hub: Any, receiver: Receiver
) -> None:
    dice = random.Random(7)
    failed: set[str] = set()

    def answers(asked: Asked) -> Any:
        told = f"{asked.data['id']} {asked.data['version']}"
        if told not in failed and dice.random() < 0.2:
            failed.add(told)
            return answering(500)
        return answering(200)

    receiver.answers = answers
    add(hub, "order", receiver, kind="order.*")
    lives = [
        found(number, "order.one", state=state, version=version, ended_us=ended)
        for version, state, ended in (
            (0, FindingState.OPENED, None), (1, FindingState.CHANGED, None), (2, FindingState.CLOSED, NOW_US + 1),
        )
        for number in range(8)
    ]  # fmt: skip
    tell(hub, *lives)
    wanted = {(finding.id, finding.version) for finding in lives}
    until(lambda: {(row["id"], row["version"]) for row in receiver.taken()} >= wanted, "all is delivered")
    first: dict[str, list[int]] = {}
    for row in receiver.taken():
        if row["version"] not in first.setdefault(row["id"], []):
            first[row["id"]].append(row["version"])
    assert first == {finding.id: [0, 1, 2] for finding in lives}
    httpx.delete(f"{hub.http}/v1/alert-routes/order").raise_for_status()


def test_a_receiver_that_hangs_holds_up_nobody_else(hub: Any, receiver: Receiver) -> None:
    stuck = Receiver(agrees=True)
    held: list[float] = []

    def hang(handler: Any) -> None:
        held.append(time.monotonic())
        handler.rfile.read(1)  # until the other side gives up

    stuck.always(hang)
    try:
        add(hub, "stuck", stuck, kind="both")
        add(hub, "fine", receiver, kind="both")
        tell(hub, *(found(number, "both") for number in range(100)))
        until(lambda: len({row["id"] for row in receiver.taken()}) == 100, "the other route delivers", 20.0)
        assert 1 <= len(held) <= 4, "a few deliveries at once, no more"
    finally:
        for name in ("stuck", "fine"):
            httpx.delete(f"{hub.http}/v1/alert-routes/{name}").raise_for_status()
        stuck.close()


def test_what_the_receiver_cannot_take_is_a_dead_letter_and_can_be_given_again(hub: Any, receiver: Receiver) -> None:
    receiver.always(answering(413, body=b"too much for us"))
    add(hub, "picky", receiver, kind="picky")
    tell(hub, found(1, "picky"), found(2, "picky"))
    until(lambda: route(hub, "picky")["failed"] == 2, "both are dead letters")
    assert len(receiver.asked) == 2, "not repeated"
    rows = letters(hub, "picky")
    assert {row["reason"] for row in rows} == {"the receiver answered 413: too much for us"}
    assert {row["hub"] for row in rows} == {"grid.alerts"}
    assert route(hub, "picky")["state"] == "failing"
    receiver.always(answering(200))
    hub.cli("dlq", "replay", "alert-route.picky")
    until(lambda: len(receiver.taken()) == 2, "they are delivered")
    until(lambda: route(hub, "picky")["state"] == "on", "it is told")
    metrics = httpx.get(f"{hub.http}/metrics").text
    for line in ("up", "delivered_total", "failed_total", "waiting"):
        assert f'gridwire_alert_route_{line}{{route="picky"}} ' in metrics
    httpx.delete(f"{hub.http}/v1/alert-routes/picky").raise_for_status()


def test_findings_that_are_too_old_are_dead_letters(hub: Any, receiver: Receiver) -> None:
    receiver.always(answering(500))
    add(hub, "late", receiver, kind="late", time_limit_s=2)
    tell(hub, found(1, "late"))
    until(lambda: route(hub, "late")["failed"] == 1, "it is given up")
    told = route(hub, "late")
    assert (told["waiting"], told["failed"], told["delivered"]) == (0, 1, 0)
    (row,) = letters(hub, "late")
    assert row["reason"] == "not delivered within the route's time limit: the receiver answered 500"
    httpx.delete(f"{hub.http}/v1/alert-routes/late").raise_for_status()


def test_a_receiver_that_is_gone_stops_its_route_until_somebody_resumes_it(hub: Any, receiver: Receiver) -> None:
    receiver.always(answering(410))
    add(hub, "gone", receiver, kind="gone")
    tell(hub, found(1, "gone"))
    until(lambda: route(hub, "gone")["state"] == "stopped", "the route is stopped")
    assert "410" in route(hub, "gone")["stopped"]
    receiver.always(answering(200))
    tell(hub, found(2, "gone"))
    assert route(hub, "gone")["waiting"] >= 1
    hub.cli("alert", "route", "resume", "gone")
    until(lambda: {row["subject"] for row in receiver.taken()} == {"T1", "T2"}, "nothing is left out")
    httpx.delete(f"{hub.http}/v1/alert-routes/gone").raise_for_status()


def test_commands_and_a_secret_that_nobody_is_shown(hub: Any, receiver: Receiver) -> None:
    refused = hub.cli("alert", "route", "add", "evil", "http://169.254.169.254/latest", check=False)
    assert refused.returncode == 1 and "not on the public internet" in refused.stderr
    assert "handshake" in hub.cli("alert", "route", "add", "--help").stdout
    chosen = ["--kind", "told.*", "--state", "opened", "closed", "--severity", "critical", "--mode", "binary"]
    header = ["--header-file", "-", "--no-handshake"]
    hub.cli("alert", "route", "add", "told", receiver.url, *chosen, *header, text=f"Authorization: {SECRET}\n")
    taken = hub.cli("alert", "route", "test", "told")
    assert taken.stdout.startswith("taken: 200")
    tell(
        hub, found(3, "told.one"), found(3, "told.one", state=FindingState.CHANGED, version=1), found(3, "not.told"),
        found(5, "told.two"),
    )  # fmt: skip
    until(lambda: len(receiver.asked) == 3, "a sample and two findings")
    assert {asked.headers["ce-type"] for asked in receiver.asked} == {
        "gridwire.test.opened", "gridwire.told.one.opened", "gridwire.told.two.opened",
    }  # fmt: skip
    assert {asked.headers["authorization"] for asked in receiver.asked} == {SECRET}
    receiver.always(answering(500, body=f"why do you say {SECRET}?".encode()))
    failed = hub.cli("alert", "route", "test", "told", "--output=json", check=False)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["answer"] == "why do you say ...?"
    tell(hub, found(7, "told.one"))
    until(lambda: route(hub, "told")["error"], "the failure is told")
    shown = hub.cli("alert", "route", "show", "told").stdout + hub.cli("alert", "route", "list").stdout
    assert "told" in shown and "the receiver answered 500: why do you say ...?" in shown
    assert SECRET not in shown
    kept = [path for path in hub.data.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == [] and SECRET not in hub.log.read_text()
    hub.cli("alert", "route", "remove", "told")
    assert httpx.get(f"{hub.http}/v1/alert-routes/told").status_code == 404
    assert "told" not in hub.cli("alert", "route", "list").stdout
    until(lambda: not [g for g in hub.get("/v1/groups")["groups"] if ".told." in g["group"]], "its group is gone")


def test_a_receiver_that_does_not_agree_gets_no_route(hub: Any) -> None:
    other = Receiver()
    other.always(answering(405))
    try:
        body = {"name": "no", "url": other.url}
        answer = httpx.post(f"{hub.http}/v1/alert-routes", json=body)
        assert answer.status_code == 400 and "handshake" in answer.json()["detail"]
        assert httpx.post(f"{hub.http}/v1/alert-routes", json={**body, "handshake": False}).status_code == 201
        again = httpx.post(f"{hub.http}/v1/alert-routes", json={**body, "handshake": False})
        assert again.status_code == 409
        assert httpx.post(f"{hub.http}/v1/alert-routes", json={**body, "more": 1}).status_code == 400
        assert httpx.delete(f"{hub.http}/v1/alert-routes/no").status_code == 204
        for method, path in (("DELETE", ""), ("POST", "/test"), ("POST", "/resume"), ("GET", "")):
            assert httpx.request(method, f"{hub.http}/v1/alert-routes/no{path}", json={}).status_code == 404
    finally:
        other.close()
