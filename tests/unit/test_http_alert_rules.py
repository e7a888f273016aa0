"""Alert rules over HTTP, over a real broker: made, changed, removed, limited; their worker's states are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from gridwire.broker.alert_rules import RULES_MAX, RuleState
from gridwire.core import batch
from gridwire.core.batch import Event

RULE = {"type": "threshold", "name": "low", "hub": "volts", "field": "v", "op": "<", "value": 210}
QUESTION = {"type": "sql", "name": "many", "query": "select 1 as subject"}
PATH = "/v1/alert-rules"


@pytest.fixture
def hub(http_hub: Any) -> Any:
    return http_hub()


@pytest.fixture
def client(hub: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url) as client:
        client.post("/v1/hubs", json={"name": "volts", "partitions": 2}).raise_for_status()
        yield client


def tell(hub: Any, *events: Event) -> None:
    async def append() -> None:
        if "grid.rule-states" not in {info.name for info in hub.broker.hubs()}:
            await hub.broker.create_hub("grid.rule-states", 1)
        await hub.broker.append("grid.rule-states", 0, batch.encode(list(events)))

    hub.run(append())


def test_a_rule_is_made_shown_changed_and_removed(client: httpx.Client) -> None:
    assert client.get(PATH).json() == {"rules": []}
    made = client.post(PATH, json=RULE)
    assert made.status_code == 201 and made.json()["status"]["state"] == "starting"
    assert client.post(PATH, json=RULE).status_code == 409
    assert client.get(f"{PATH}/low").json()["value"] == 210
    changed = client.put(f"{PATH}/low", json={**RULE, "value": 200, "quiet_s": 60})
    assert changed.status_code == 200 and changed.json()["revision"] > made.json()["revision"]
    assert client.put(f"{PATH}/low", json=QUESTION).status_code == 400
    assert client.put(f"{PATH}/many", json=QUESTION).status_code == 404
    assert client.post(PATH, json=QUESTION).status_code == 201
    assert [row["name"] for row in client.get(PATH).json()["rules"]] == ["low", "many"]
    assert client.delete(f"{PATH}/low").status_code == 204
    assert client.delete(f"{PATH}/low").status_code == 404
    assert client.get(f"{PATH}/low").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [({**RULE, "hub": "none"}, 404), ({**RULE, "hub": "__control"}, 404), ({**RULE, "name": "try"}, 400),
     ({**RULE, "value": "high"}, 400), ({**RULE, "where": "?"}, 400), ({**RULE, "more": 1}, 400), ([], 400),
     ({**RULE, "type": "python"}, 400), ({**QUESTION, "every_s": 1}, 400), ({**QUESTION, "query": ""}, 400)],
)  # fmt: skip
def test_what_is_no_rule_is_refused_with_a_reason(client: httpx.Client, body: Any, status: int) -> None:
    for answer in (client.post(PATH, json=body), client.post(f"{PATH}/try", json={"rule": body, "hours": 1})):
        assert answer.status_code in (status, 404) and len(answer.json()["detail"]) > 10
    assert client.post(PATH, json=body).status_code == status


def test_there_are_only_so_many(client: httpx.Client) -> None:
    for number in range(RULES_MAX):
        client.post(PATH, json={**QUESTION, "name": f"r{number}"}).raise_for_status()
    assert client.post(PATH, json=RULE).status_code == 413
    assert client.put(f"{PATH}/r0", json={**RULE, "name": "r0"}).status_code == 200


def test_how_it_is_comes_from_its_worker(hub: Any, client: httpx.Client) -> None:
    revision = client.post(PATH, json=RULE).json()["revision"]
    state = RuleState(revision, open=3, events=40, last_ms=5, error="no lake")
    nonsense = (Event(b"{", b"low", (), 1), Event(b"7", b"#commit", (), 1), Event(b"{}", b"low/a", (), 1))
    tell(hub, *nonsense, Event(msgspec.json.encode(state), b"low", (), 1))
    (row,) = client.get(PATH).json()["rules"]
    assert row["status"] == {"state": "failing", "open": 3, "events": 40, "skipped": 0, "refused": 0, "last_ms": 5,
                             "took_ms": 0, "error": "no lake"}  # fmt: skip
    assert 'gridwire_alert_rule_failing{rule="low"} 1.0' in client.get("/metrics").text
    client.put(f"{PATH}/low", json=RULE)
    assert client.get(f"{PATH}/low").json()["status"]["state"] == "starting"
