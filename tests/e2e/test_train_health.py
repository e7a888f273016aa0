"""docs/howto/transformer-health.md: every command of it against a real hub, with months of facts written here."""

from __future__ import annotations

import json
import shlex
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gridwire.capture import sql
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json
from hub_process import HubProcess

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "transformer-health.md"
UNITS, DAYS, AILING = 48, 70, 5
FIRST_S = 1_767_225_600  # 2026-01-01
DEADLINE_S = 120.0


def until(found, what):
    end = time.monotonic() + DEADLINE_S
    while not (value := found()):
        assert time.monotonic() < end, f"no {what} within {DEADLINE_S:.0f} s"
        time.sleep(0.2)
    return value


def utility():
    """Every fourth transformer fails after two hot weeks; one that has not failed is hot in the end."""
    random = np.random.default_rng(5)
    load = 0.5 + 0.1 * random.random((DAYS, 24, UNITS))
    failed = {unit: int(random.integers(40, DAYS - 5)) for unit in range(0, UNITS, 4)}
    for unit, day in failed.items():
        load[day - 14 : day, :, unit] += 0.6
    load[-10:, :, AILING] += 0.6
    return load, failed


def facts(load, days):
    for day in days:
        for hour in range(24):
            end = datetime.fromtimestamp(FIRST_S + day * 86_400 + (hour + 1) * 3600, UTC)
            for unit in range(UNITS):
                pu = float(load[day, hour, unit])
                yield {
                    "transformer": f"T{unit}", "ts_end": end.isoformat(), "load_factor": round(pu, 4),
                    "top_oil_c": 50.0, "hot_spot_c": round(40 + 50 * pu, 2), "ageing_factor": round(pu**4, 6),
                    "loss_of_life_h": 1.0, "watched_h": 100.0, "held_h": 0.0, "ambient": "observed",
                    "signature": "", "risk": 0.1,
                }  # fmt: skip


def send(hub, load, days):
    lines = "\n".join(json.dumps(each) for each in facts(load, days)).encode()
    request = urllib.request.Request(
        f"{hub.http}/v1/hubs/grid.health/events?key_field=transformer", lines, {"content-type": "application/x-ndjson"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("health")
    network = Network(
        name="health",
        transformers=tuple(Transformer(id=f"T{n}") for n in range(UNITS)),
        feeders=(Feeder(id="F"),),
        usage_points=tuple(UsagePoint(id=f"U{n}", transformer=f"T{n}", feeder="F") for n in range(UNITS)),
    )
    (directory / "network.json").write_bytes(to_json(network))
    rows = [
        f"T{unit},{datetime.fromtimestamp(FIRST_S + day * 86_400, UTC):%Y-%m-%d}" for unit, day in utility()[1].items()
    ]
    (directory / "failures.csv").write_text("\n".join(["transformer,failed", *rows, ""]))
    return directory


@pytest.fixture(scope="module")
def hub(place):
    hub = HubProcess(place / "gridwire-data", "--amqp-port", "off", "--lake-flush", "1", "--detectors", "none")
    yield hub
    hub.stop()


def run(hub, place, command, *more, check=True):
    arguments = [str(place / each) if (place / each).exists() else each for each in command[1:]]
    return hub.cli(*arguments, *more, check=check)


def count(place, table):
    try:
        return sql.query(place / "gridwire-data" / "lake", f'SELECT count(*) FROM "{table}"').rows[0][0]
    except sql.SqlError:
        return 0  # not yet a table


def newest_risks(hub, place, question):
    """Rows of the page's question once the lake has the last day that ended."""
    last = datetime.fromtimestamp(FIRST_S + (DAYS - 2) * 86_400, UTC).strftime("%Y-%m-%d")
    answer = run(hub, place, question, "-o", "json", check=False)
    rows = json.loads(answer.stdout) if answer.returncode == 0 else []
    return rows if rows and rows[0]["day"] == last else []


def test_the_page(hub, place):
    commands = [shlex.split(line[2:]) for line in PAGE.read_text().splitlines() if line.startswith("$ ")]
    assert commands[0] == ["gridwire", "up", "--data", "gridwire-data"]
    network_import, train, show, question, alerts = commands[1:]
    run(hub, place, network_import)
    until(lambda: any(each["name"] == "grid.health" for each in hub.get("/v1/hubs")["hubs"]), "hub of health")
    load, failed = utility()
    for begin in range(0, DAYS - 1, 10):
        send(hub, load, range(begin, min(begin + 10, DAYS - 1)))
    until(lambda: count(place, "grid.health") == (DAYS - 1) * 24 * UNITS, "facts in the lake")

    trained = json.loads(run(hub, place, train, "-o", "json").stdout)["models"]
    assert [each["kind"] for each in trained] == ["transformer_health"]
    metrics = trained[0]["metrics"]["transformer"]
    assert metrics["failures"] == len(failed)
    assert metrics["auc"] > metrics["risk_auc"]
    assert trained[0]["published"]
    shown = run(hub, place, show).stdout
    assert trained[0]["version"] in shown and "visits_per_failure" in shown

    send(hub, load, [DAYS - 1])  # the day before it has ended now
    ailing = f"T{AILING}"
    until(lambda: ailing in run(hub, place, alerts).stdout, "alert")
    until(lambda: newest_risks(hub, place, question), "risks of the last day in the lake")
    found = newest_risks(hub, place, question)
    assert found[0]["transformer"] == ailing
    assert found[0]["model"] == trained[0]["version"]
    told = {each["subject"]: each for each in json.loads(run(hub, place, alerts, "-o", "json").stdout)}
    assert told[ailing]["evidence"]["because"]
    assert told[ailing]["evidence"]["probability"] == pytest.approx(found[0]["probability"], abs=1e-4)
