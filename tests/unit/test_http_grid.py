"""The grid over HTTP: the network model out of its hub, over a real broker; the lake is in test_grid_history."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.errors import Unavailable, UnknownHub
from gridwire.core.hubs import NETWORK
from gridwire.grid import network
from gridwire.grid.network_parts import to_events
from gridwire.lake_reader import WAITING_MAX, LakeReader


class Lake:
    """Remembers what it was asked and answers what it was told to."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {}

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(question)
        return dict(self.answer)


@pytest.fixture
def lake() -> Lake:
    return Lake()


@pytest.fixture
def hub(http_hub: Any, lake: Lake) -> Any:
    return http_hub(lake=lake)


@pytest.fixture
def client(hub: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url) as client:
        yield client


def model(points: int = 6) -> network.Network:
    return network.Network(
        name="small",
        transformers=tuple(network.Transformer(id=f"T{t}", rated_kva=100.0, substation="S") for t in range(3)),
        feeders=(network.Feeder(id="MV"), network.Feeder(id="LV", transformer="T2")),
        usage_points=tuple(
            network.UsagePoint(id=f"U{i}", transformer=f"T{i % 3}", feeder="LV" if i % 3 == 2 else "MV")
            for i in range(points)
        ),
    )


def dated(valid_from: str, points: int = 6, moved: str = "T0", **fields: Any) -> network.Network:
    """A model in which U0 hangs on another transformer."""
    found = model(points)
    first, *others = found.usage_points
    place = msgspec.structs.replace(first, transformer=moved, feeder="LV" if moved == "T2" else "MV")
    return msgspec.structs.replace(found, usage_points=(place, *others), valid_from=valid_from, **fields)


def tell(hub: Any, *values: bytes, at_ms: int = 0) -> None:
    async def append() -> None:
        if NETWORK not in {info.name for info in hub.broker.hubs()}:
            await hub.broker.create_hub(NETWORK, 1)
        for value in values:
            await hub.broker.append(NETWORK, 0, batch.encode([Event(value, timestamp=at_ms)]))

    hub.run(append())


def ids(client: httpx.Client, query: str) -> list[str]:
    rows = client.get(f"/v1/grid/usage-points?{query}").raise_for_status().json()["usage_points"]
    return [row["id"] for row in rows]


def test_a_network_is_told_with_the_number_of_its_usage_points(hub: Any, client: httpx.Client) -> None:
    assert client.get("/v1/grid/network").status_code == 404
    tell(hub, network.to_json(model()))
    told = client.get("/v1/grid/network").json()
    assert told["name"] == "small" and told["interval_s"] == 900
    assert [(row["id"], row["feeders"], row["customers"]) for row in told["transformers"]] == [
        ("T0", ["MV"], 2), ("T1", ["MV"], 2), ("T2", [], 2)
    ]  # fmt: skip
    assert [(row["id"], row["transformer"], row["customers"]) for row in told["feeders"]] == [
        ("MV", "", 4), ("LV", "T2", 2)
    ]  # fmt: skip
    assert ids(client, "transformer=T1") == ["U1", "U4"]
    assert ids(client, "feeder=LV") == ["U2", "U5"]


def test_a_model_in_parts_counts_once_it_is_whole(hub: Any, client: httpx.Client) -> None:
    parts = list(to_events(model(3000), 20_000))
    assert len(parts) > 3
    tell(hub, network.to_json(model()), *parts[:-1])
    assert client.get("/v1/grid/network").json()["transformers"][0]["customers"] == 2
    tell(hub, parts[-1])
    assert client.get("/v1/grid/network").json()["transformers"][0]["customers"] == 1000
    assert ids(client, "transformer=T1") == [f"U{i}" for i in range(1, 3000, 3)]


def test_what_is_no_model_is_passed_over(hub: Any, client: httpx.Client) -> None:
    parts = list(to_events(model(3000), 20_000))
    lost = {**json.loads(network.to_json(model())), "transformers": []}
    tell(hub, network.to_json(model()), b"\xff", b"[]", json.dumps(lost).encode(), parts[0], parts[2], *parts[3:])
    assert client.get("/v1/grid/network").json()["transformers"][0]["customers"] == 2


def test_each_time_has_its_model(hub: Any, client: httpx.Client) -> None:
    first, second = dated("2026-01-01T00:00:00Z"), dated("2026-03-01T00:00:00+01:00", moved="T2")
    tell(hub, network.to_json(first), network.to_json(second))
    told = client.get("/v1/grid/network?at=2026-02-01T00:00:00Z").json()
    assert (told["valid_from"], told["valid_to"], told["first"]) == (
        "2026-01-01T00:00:00Z", "2026-02-28T23:00:00Z", True,
    )  # fmt: skip
    assert [row["customers"] for row in told["transformers"]] == [2, 2, 2]
    assert [row["customers"] for row in client.get("/v1/grid/network").json()["transformers"]] == [1, 2, 3]
    assert client.get("/v1/grid/network?at=2016-01-01T00:00:00Z").json()["valid_from"] == "2026-01-01T00:00:00Z"
    assert ids(client, "transformer=T0&at=2026-02-28T22:59:59Z") == ["U0", "U3"]
    assert ids(client, "transformer=T0&at=2026-02-28t23:00:00z") == ["U3"]
    assert ids(client, "transformer=T2") == ["U0", "U2", "U5"]


def test_versions_are_listed_newest_first_with_those_that_were_replaced(hub: Any, client: httpx.Client) -> None:
    assert client.get("/v1/grid/networks").json() == {"networks": [], "truncated": False}
    parts = list(to_events(dated("2026-02-01T00:00:00Z", 3000), 20_000))
    again = b" " + network.to_json(dated("2026-01-01T00:00:00Z"))
    tell(hub, network.to_json(dated("2026-01-01T00:00:00Z")), *parts, again, at_ms=1_000)
    tell(hub, network.to_json(dated("2026-04-01T00:00:00Z", 4, name="later")), at_ms=5)
    told = client.get("/v1/grid/networks").json()["networks"]
    assert [(row["name"], row["valid_from"][:10], row["in_effect"], row["usage_points"]) for row in told] == [
        ("later", "2026-04-01", True, 4),
        ("small", "2026-01-01", True, 6),
        ("small", "2026-02-01", False, 3000),
        ("small", "2026-01-01", False, 6),
    ]
    assert [row["valid_to"] for row in told] == [None, "2026-04-01T00:00:00Z", None, None]
    assert {row["published"] for row in told} == {"1970-01-01T00:00:01Z"}
    assert (told[2]["first_offset"], told[2]["offset"]) == (1, len(parts))
    assert len(client.get("/v1/grid/networks?limit=1").json()["networks"]) == 1
    assert client.get("/v1/grid/networks?limit=1").json()["truncated"]


def test_models_that_are_not_kept_are_read_again(hub: Any, client: httpx.Client) -> None:
    days = [f"2026-01-{number:02d}T00:00:00Z" for number in range(1, 9)]
    for number, day in enumerate(days):
        tell(hub, b"junk", *to_events(dated(day, 600 + number), 20_000))
    for number in (0, 7, 3, 0, 5):
        told = client.get("/v1/grid/network", params={"at": days[number]}).json()
        assert sum(row["customers"] for row in told["transformers"]) == 600 + number
        assert len(ids(client, f"transformer=T0&at={days[number]}")) == 200 + (number > 0) + (number > 3) + (number > 6)


def test_a_model_sent_ahead_of_its_time_is_not_the_one_in_effect(hub: Any, client: httpx.Client) -> None:
    tell(hub, network.to_json(dated("")), network.to_json(dated("2199-01-01T00:00:00Z", 3)), at_ms=1_000)
    assert sum(row["customers"] for row in client.get("/v1/grid/network").json()["transformers"]) == 6
    ahead = client.get("/v1/grid/network?at=2199-01-02T00:00:00Z").json()
    assert sum(row["customers"] for row in ahead["transformers"]) == 3


def test_a_model_whose_time_is_none_is_passed_over(hub: Any, client: httpx.Client) -> None:
    tell(hub, network.to_json(dated("")), network.to_json(dated("tomorrow", 3)))
    assert len(client.get("/v1/grid/networks").json()["networks"]) == 1


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("network?at=yesterday", 400, "RFC 3339"),
        ("networks?limit=0", 400, "between 1"),
        ("usage-points", 400, "which transformer"),
        ("usage-points?transformer=T1&feeder=MV", 400, "which transformer"),
        ("usage-points?transformer=T9", 404, "GET /v1/grid/network"),
        ("at", 400, "which time"),
        ("at?time=yesterday", 400, "RFC 3339"),
        ("loads?transformer=%00", 400, "printable"),
        ("loads?transformer=T1&limit=0", 400, "between 1"),
        ("usage-points/U1/readings?versions=some", 400, "current or all"),
        ("usage-points/U1/readings?from=2016", 400, "RFC 3339"),
    ],
)
def test_a_question_that_makes_no_sense_says_what_to_ask(
    hub: Any, client: httpx.Client, lake: Lake, path: str, status: int, says: str
) -> None:
    tell(hub, network.to_json(model()))
    answer = client.get(f"/v1/grid/{path}")
    assert answer.status_code == status and says in answer.json()["detail"]
    assert lake.asked == []


def test_questions_about_the_past_go_to_the_lake(hub: Any, client: httpx.Client, lake: Lake) -> None:
    lake.answer = {"transformers": [], "feeders": [], "health": [], "reached_ms": None}
    found = client.get("/v1/grid/at?time=2016-06-14T07:45:00Z").json()
    assert found["time"] == "2016-06-14T07:45:00Z" and found["alerts"] == found["offsets"] == []
    lake.answer = {"readings": [], "truncated": False}
    assert client.get("/v1/grid/usage-points/a%2Fb/readings?versions=all").json()["usage_point"] == "a/b"
    client.get("/v1/grid/loads?feeder=MV&limit=3")
    assert lake.asked == [
        {"ask": "at", "time": "2016-06-14T07:45:00Z"},
        {"ask": "readings", "usage_point": "a/b", "since": None, "until": None, "versions": "all"},
        {"ask": "loads", "kind": "feeder", "unit": "MV", "until": "9999-12-31T00:00:00Z", "limit": 3},
    ]


# The process that reads the lake


def reader(answer: str) -> LakeReader:
    """One whose process answers every line with what `answer` evaluates to."""
    code = (
        f"import json, sys, os\nfor line in sys.stdin:\n  q = json.loads(line); print(json.dumps({answer}), flush=True)"
    )
    return LakeReader([sys.executable, "-c", code])


def test_one_process_answers_in_turn_and_ends_when_told() -> None:
    async def asked() -> None:
        lake = reader('{"answer": {"n": q["n"], "pid": os.getpid()}}')
        answers = await asyncio.gather(*(lake.ask({"n": n}) for n in range(5)))
        assert [answer["n"] for answer in answers] == list(range(5))
        assert len({answer["pid"] for answer in answers}) == 1
        await lake.stop()
        assert (await lake.ask({"n": 7}))["pid"] != answers[0]["pid"]
        await lake.stop()

    asyncio.run(asked())


def test_what_is_not_in_the_lake_and_what_fails_is_told() -> None:
    async def asked() -> None:
        for answer, error in (('{"missing": "m"}', UnknownHub), ('{"failed": "f"}', Unavailable), ("1/0", Unavailable)):
            lake = reader(answer)
            with pytest.raises(error):
                await lake.ask({})
            await lake.stop()

    asyncio.run(asked())


def test_too_many_questions_are_refused_at_once() -> None:
    async def asked() -> None:
        lake = reader('{"answer": {}}')
        waiting = [asyncio.ensure_future(lake.ask({})) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await lake.ask({})
        assert len(await asyncio.gather(*waiting)) == WAITING_MAX
        await lake.stop()

    asyncio.run(asked())
