"""docs/howto/train-and-score.md: every command of it against a real hub, and models that change without a restart."""

from __future__ import annotations

import json
import shlex
import time

import pytest

import guide
from grid_series import START_US, Utility, network
from gridwire.capture import sql
from gridwire.grid.network import to_json
from gridwire.grid.reading import rfc3339
from hub_process import HubProcess

PAGE = "train-and-score.md"
DAYS, UNITS = 60, 4
HOUR_US = 3_600_000_000
DEADLINE_S = 120.0


def until(found, what):
    end = time.monotonic() + DEADLINE_S
    while not (value := found()):
        assert time.monotonic() < end, f"no {what} within {DEADLINE_S:.0f} s"
        time.sleep(0.2)
    return value


def write_utility(directory):
    utility = Utility(UNITS, DAYS + 3, intervals=24)
    (directory / "network.json").write_bytes(to_json(network(UNITS, 3600, rated_kva=1000.0)))
    rows = [f"berlin,{rfc3339(START_US + (h + 1) * HOUR_US)},{t:.2f}" for h, t in enumerate(utility.temperature_c)]
    (directory / "weather.csv").write_text("\n".join(["station,ts,temperature_c", *rows, ""]))
    event = "2016-02-24T17:00:00,2016-02-24T20:00:00"
    units = ("usage_point,U1", "transformer,T1", "feeder,nobody")
    (directory / "events.csv").write_text("kind,unit,start,end\n" + "".join(f"{unit},{event}\n" for unit in units))
    with (directory / "readings.ndjson").open("w") as file:
        for day in range(DAYS):
            load = utility.day(day)
            for hour in range(24):
                ts_end = rfc3339(START_US + (day * 24 + hour + 1) * HOUR_US)
                for unit in range(UNITS):
                    reading = {"usage_point": f"U{unit}", "ts_end": ts_end, "interval_s": 3600,
                               "reading_type": "import_kwh", "value": round(float(load[hour, unit]), 3)}  # fmt: skip
                    file.write(json.dumps(reading) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("train")
    write_utility(directory)
    return directory


@pytest.fixture(scope="module")
def hub(place):
    hub = HubProcess(place / "gridwire-data", "--amqp-port", "off", "--lake-flush", "1")
    yield hub
    hub.stop()


def run(hub, place, command, *more):
    """A command of the page, its files and its data directory where the test has them."""
    arguments = [str(place / each) if (place / each).exists() else each for each in command[1:]]
    return hub.cli(*arguments, *more)


def forecasts(hub):
    events = [
        event["value"]
        for partition in range(4)
        for event in hub.get(f"/v1/hubs/grid.forecasts/events?partition={partition}&offset=0&limit=1000")["events"]
    ]
    found: dict[str, set[str]] = {}
    for event in events:
        found.setdefault(event["model"], set()).add(f"{event['kind']}/{event['unit']}")
    return events, found


def count(place, table, where="true"):
    try:
        answer = sql.query(place / "gridwire-data" / "lake", f'SELECT count(*) FROM "{table}" WHERE {where}')
    except sql.SqlError:
        return 0  # not yet a table
    return answer.rows[0][0]


def whole_facts(place):
    return count(place, "grid.transformers", "count = expected")


def worker(hub):
    return next(each for each in hub.get("/v1/status")["workers"] if each["name"] == "forecast")


def test_the_page(hub, place):
    commands = [shlex.split(each.text) for each in guide.commands(PAGE)]
    assert commands[0] == ["gridwire", "up", "--data", "gridwire-data"]
    network_import, weather, readings, train, listing, show, question, again, rollback, baseline = commands[1:]
    for command in (network_import, weather, readings):
        run(hub, place, command)
    until(lambda: whole_facts(place) == DAYS * 24 * UNITS, "facts in the lake")
    until(lambda: count(place, "weather") == (DAYS + 3) * 24, "weather in the lake")
    trained = json.loads(run(hub, place, train, "-o", "json").stdout)
    assert [model["kind"] for model in trained["models"]] == ["load_forecast", "weather_normalisation"]
    assert all(model["published"] and model["better"] for model in trained["models"])
    first = trained["models"][0]["version"]
    assert trained["models"][0]["data"].keys() >= {"grid.transformers", "grid.feeders", "weather"}

    units = {f"transformer/T{n}" for n in range(UNITS)} | {"feeder/F"}
    until(lambda: hub_has(hub, "grid.forecasts") and forecasts(hub)[1].get(first) == units, "forecasts")
    events, _ = forecasts(hub)
    assert len(events) == len(units) * 48
    assert all(event["p10_kw"] <= event["p50_kw"] <= event["p90_kw"] and event["weather"] for event in events)
    assert first in run(hub, place, listing).stdout
    assert first in run(hub, place, show).stdout
    pid = worker(hub)["pid"]

    second = json.loads(run(hub, place, again, "-o", "json").stdout)["models"][0]["version"]
    assert second != first
    until(lambda: forecasts(hub)[1].get(second) == units, "forecasts with the new model")
    assert run(hub, place, rollback).stdout.startswith(f"load_forecast {first} is in effect")
    until(lambda: len(forecasts(hub)[0]) == 3 * 48 * len(units), "forecasts with the model before")
    assert worker(hub)["pid"] == pid
    until(lambda: first in run(hub, place, question).stdout, "forecasts in the lake")

    until(lambda: count(place, "grid.demand", "normalised_kw > 0") >= 50 * len(units), "normalised demand")

    judged = json.loads(run(hub, place, baseline, "-o", "json").stdout)
    by_meter, by_transformer, nobody = judged
    assert by_meter["delivered_kwh"] == pytest.approx(by_transformer["delivered_kwh"], abs=0.01)
    assert by_transformer["baseline_kwh"] == pytest.approx(by_transformer["load_kwh"], rel=0.2)
    assert len(by_transformer["days"]) == 10
    assert nobody["problem"] == "no loads are known"


def hub_has(hub, name):
    return any(each["name"] == name for each in hub.get("/v1/hubs")["hubs"])


def test_mistakes_are_one_sentence_each(hub, place, tmp_path):
    for arguments, part in (
        (("train", "--data", str(tmp_path)), "has no facts"),
        (("train", "horoscope", "--data", str(place / "gridwire-data")), "unknown kind of model"),
        (("train", "--zone", "Mars/Olympus"), "time zone"),
        (("train", "--from", "yesterday"), "no time such as"),
        (("model", "promote", "nothing"), "0 models are called"),
        (("model", "rollback", "horoscope"), "no earlier model"),
    ):
        done = hub.cli(*arguments, check=False)
        assert done.returncode == 1
        assert part in done.stderr
        assert done.stderr.count("\n") == 1
