"""The worker of alert rules on a Kafka cluster: one of two has all rules, the other goes on from what was kept."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from event_hubs import KafkaHubs
from gridwire.broker.alert_rules import RuleRecord, SqlRule, ThresholdRule
from gridwire.grid.rules.question import Answer
from gridwire.grid.rules.worker import run

WAIT_S = 120.0
LOW = ThresholdRule(name="low", hub="volts", field="v", op="<", value=210.0, subject="up", for_count=2)
MANY = SqlRule(name="many", query="select", every_s=10)


class Worker:
    """One in a thread of its own."""

    def __init__(self, hubs: KafkaHubs, records: list[RuleRecord]) -> None:
        self.stop = threading.Event()
        self.metrics: dict[str, int] = {}

        def work() -> None:
            run(
                lambda names, follow: hubs.open("grid.rules", names, follow=follow, together=True),
                records, lambda query: Answer([{"name": "subject"}], [["T1"]]), self.stop, metrics=self.metrics,
            )  # fmt: skip

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.1)
    return found


def value(subject: str, volts: float) -> bytes:
    return json.dumps({"up": subject, "v": volts}).encode()


def test_rules_go_on_whoever_works(kafka: Any) -> None:
    hubs = KafkaHubs(kafka.url)
    for name in ("volts", "grid.alerts", "grid.alert-notes", "grid.rule-states"):
        hubs.create(name, 2 if name == "volts" else 1)
    records = [RuleRecord(LOW), RuleRecord(MANY)]
    workers = [Worker(hubs, records) for _ in range(2)]
    owner = until(lambda: next((each for each in workers if each.metrics.get("commits")), None))

    def told() -> list[tuple[str, str, int]]:
        values = [json.loads(event or b"") for event in hubs.values("grid.alerts", 0)]
        return [(each["subject"], each["state"], each["version"]) for each in values]

    hubs.append("volts", 0, value("a", 200), value("a", 205), value("b", 200))
    until(lambda: {("a", "opened", 0), ("T1", "opened", 0)} <= set(told()))
    until(lambda: not owner.metrics.get("lag_events"))
    owner.end()
    other = next(each for each in workers if each is not owner)
    hubs.append("volts", 0, value("b", 205), value("a", 230))
    until(lambda: {("b", "opened", 0), ("a", "closed", 1)} <= set(told()))
    other.end()
    assert sorted(told()) == [("T1", "opened", 0), ("a", "closed", 1), ("a", "opened", 0), ("b", "opened", 0)]
