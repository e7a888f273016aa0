"""The table of all benchmarks: every goal judged by the right rule, and no failure hidden."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import connections
import growth
import java_tools
import kafka_client
import produce_consume
import recovery
import run
import start_and_memory

OURS = {"min": 1.0, "median": 2.0, "max": 3.0}
BASE: dict[str, Any] = {"what": "x", "ours": OURS, "peer": "kafka", "theirs": OURS, "ratio": {"median": 1.0}}


@pytest.mark.parametrize(
    ("goals", "verdict"),
    [
        ({}, ""),
        ({"goal_least": 2.0}, "yes"),
        ({"goal_least": 2.1}, "no"),
        ({"goal_most": 2.0}, "yes"),
        ({"goal_most": 1.9}, "no"),
        ({"goal_ratio": 1.0}, "yes"),
        ({"goal_ratio": 1.01}, "no"),
        ({"goal_least": 1.0, "goal_ratio": 1.01}, "no"),
        ({"goal_ratio_most": 1.0}, "yes"),
        ({"goal_ratio_most": 0.9}, "no"),
        ({"goal_ratio": 1.0, "goal_ratio_most": 0.9}, "no"),
        ({"goal_ratio": None}, ""),
    ],
)
def test_goals_are_judged_by_the_medians(goals: dict[str, Any], verdict: str) -> None:
    assert run.met(BASE | goals) == verdict


def test_without_the_peer_a_ratio_is_unknown_but_a_missed_figure_is_missed() -> None:
    alone = {"what": "x", "ours": OURS, "peer": "kafka", "skipped": "no Java", "goal_ratio": 1.0}
    assert run.met(alone) == "unknown"
    assert run.met(alone | {"goal_least": 9.0}) == "no"
    assert run.met(alone | {"goal_ratio": None, "goal_ratio_most": 1.0}) == "unknown"
    assert "SKIPPED: no Java" in run.cells(alone)


def test_a_benchmark_without_result_is_a_row() -> None:
    for output in ("", "Traceback\n", '{"bench": "columnar_read"}', "[]"):
        rows = run.rows_of("columnar_read", output)
        assert [run.met(row) for row in rows] == ["no"]
        assert "FAILED" in run.cells(rows[0])[1]


def test_rows_of_columnar_read() -> None:
    rates = {"spans": 24e6, "arrow": 12e6, "confluent": 0.6e6, "columns": 5e6, "msgspec": 1e6}
    rows = run.rows_of("columnar_read", "table\n" + json.dumps({"events_per_s": rates}))
    assert [run.met(row) for row in rows] == ["yes", "", ""]
    assert run.cells(rows[0])[1:5] == ["24.00 M", "600 k", "confluent client", "40"]
    rates["confluent"] = 0.9e6
    assert run.met(run.rows_of("columnar_read", json.dumps({"events_per_s": rates}))[0]) == "no"


def test_rows_of_readings_pipeline() -> None:
    result = {"gridwire_readings_s": {"min": 2e6, "median": 3.1e6, "max": 4e6}, "peer_readings_s": OURS, "ratio": 10.0}
    [row] = run.rows_of("readings_pipeline", json.dumps(result))
    assert run.cells(row)[1] == "3.10 M (2.00 M to 4.00 M)"
    assert run.met(row) == "yes"


def test_a_benchmark_that_ends_badly_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    rows, fine = run.run("broken", [])
    assert not fine and rows == [{"what": "broken", "failed": "exit code 3"}]
    (tmp_path / "good.py").write_text("import sys, json; print(json.dumps({'rows': [{'what': sys.argv[1]}]}))")
    assert run.run("good", ["--quick"]) == ([{"what": "--quick"}], True)


def test_the_document_has_every_row() -> None:
    text = run.markdown([BASE | {"goal_ratio": 1.0}, run.failed("broken", "why")], "Measured today.")
    lines = text.splitlines()
    assert lines[0] == "Measured today."
    assert lines[4] == "| x | 2 (1 to 3) | 2 (1 to 3) | kafka | 1 | ratio >= 1 | yes |"
    assert "FAILED: why" in lines[5]


# -- rows of the two that make their own ------------------------------------------------------------------------------


def round_of(factor: float) -> dict[str, float]:
    fields = [*produce_consume._MEASURES, *(f"{m} cpu" for m in produce_consume._MEASURES)]
    return dict.fromkeys([*fields, "p50_ms", "p99_ms", "memory_mb"], factor)


def test_produce_compares_our_fsync_with_each_peer_round_by_round() -> None:
    found = {"gridwire": [round_of(4), round_of(6)], "kafka": [round_of(2), round_of(6)]}
    found["kafka flush"] = [round_of(1), round_of(1)]
    rows = produce_consume.goal_rows(found, {"tansu": "not for this system"})
    assert rows[0]["ratio"] == {"min": 1.0, "median": 1.5, "max": 2.0}
    assert rows[1]["ratio"] == {"min": 4.0, "median": 5.0, "max": 6.0}
    judged = {(row["what"], row["peer"]) for row in rows if run.met(row)}
    assert judged == {
        ("Kafka produce 100 B, gridwire with fsync, events/s", "kafka, no fsync"),
        ("Kafka produce 1 KB, gridwire with fsync, events/s", "kafka, no fsync"),
        ("memory of the server after that, MB", "kafka, no fsync"),
    }
    assert {row["skipped"] for row in rows if row["peer"] == "tansu, memory only"} == {"not for this system"}
    for row in rows:
        assert len(run.cells(row)) == len(run.HEAD)


def test_produce_without_peer_still_reports_ours() -> None:
    missing = dict.fromkeys(["kafka", "kafka flush", "tansu"], "Java is not installed")
    rows = produce_consume.goal_rows({"gridwire": [round_of(4)]}, missing)
    assert all(row["skipped"] == "Java is not installed" and row["ours"]["median"] == 4 for row in rows)
    assert {run.met(row) for row in rows} == {"unknown", ""}


def test_start_is_judged_by_seconds_not_by_the_peer() -> None:
    found = {"gridwire": [{"start_s": 0.8}, {"start_s": 1.4}, {"start_s": 0.9}]}
    row = start_and_memory.goal_row(found, "no Java", "start_s", "start", 1.0)
    assert run.met(row) == "yes"
    found["kafka"] = [{"start_s": 1.6}, {"start_s": 2.8}, {"start_s": 1.8}]
    assert start_and_memory.goal_row(found, "", "start_s", "start", 1.0)["ratio"]["median"] == 0.5
    assert run.met(start_and_memory.goal_row(found, "", "start_s", "start", 0.5)) == "no"


def test_the_client_loses_nothing_against_a_real_hub(tmp_path: Path) -> None:
    hub = produce_consume.Hub(tmp_path, "--no-workers")
    try:
        load = produce_consume.Load({"100 B": 3000, "1 KB": 1000}, 10, 2, lambda: None)
        found = produce_consume.run(hub, load, [0])
        assert set(found) == set(round_of(0))
        assert all(value >= 0 for value in found.values())
        assert hub.request("GET", "/v1/hubs")["hubs"] == []  # what it made is gone
        kafka_client.make_topics(hub.kafka, "short*2", 2)
        kafka_client.run_client("spread", hub.kafka, "short*2", 2, 10, 8)
        assert kafka_client.ends(hub.kafka, "short-0", 2) == kafka_client.ends(hub.kafka, "short-1", 2) == [2, 2]
        with pytest.raises(SystemExit, match="8 of 9 events were read"):
            kafka_client.client_consume(hub.kafka, "short*2", 2, 0, 9, within_s=2)
    finally:
        hub.stop()


def test_single_events_are_acknowledged_by_a_real_hub_and_a_refusal_ends_the_run(tmp_path: Path) -> None:
    hub = connections.Hub(tmp_path, "--no-workers")
    try:
        kafka_client.make_topics(hub.kafka, connections.TOPIC, 2)
        host, _, port = hub.kafka.rpartition(":")
        caller = connections.Caller(host, int(port), 1)
        for _ in range(3):
            caller.send(0.0)
            while not caller.received():
                pass
        caller.socket.close()
        assert kafka_client.ends(hub.kafka, connections.TOPIC, 2) == [0, 3]
        with pytest.raises(SystemExit, match="code 3"):
            connections.call(hub.kafka, 3, 0.05)  # there are no partitions 2 and 3
    finally:
        hub.stop()


def test_connections_row_by_row() -> None:
    fields = [f"{name} {n}" for name in ("events_s", "p99_ms") for n in connections.CONNECTIONS]
    rows = connections.goal_rows({"gridwire": [dict.fromkeys(fields, 2.0)]}, "no Java")
    assert [row["what"] for row in rows][::4] == [
        f"single events, {n}, fsync, events/s" for n in ("1 connection", "50 connections", "500 connections")
    ]
    assert all(row["skipped"] == "no Java" for row in rows)


def test_java_tools_are_read_to_the_last_event() -> None:
    told = (
        "7 records sent, 99.0 records/sec (0.1 MB/sec)\n20 records sent, 812347.7 records/sec (77.47 MB/sec), 1 ms avg"
    )
    assert java_tools.produced_rate(told, 20) == 812347.7
    with pytest.raises(RuntimeError, match="not all 21"):
        java_tools.produced_rate(told, 21)
    table = "start.time, data.consumed.in.nMsg, fetch.nMsg.sec\n2026-01-01 00:00:00:000, 20, 1234.5\n"
    assert java_tools.consumed_rate(table, 20) == 1234.5
    with pytest.raises(RuntimeError, match="of 21"):
        java_tools.consumed_rate(table, 21)


def test_growth_compares_the_full_partition_with_the_empty_one() -> None:
    each = [{"produce": 2.0, "consume": 4.0, "cpu_us": 1.0}]
    found = {("gridwire", point.name): each for point in growth.POINTS}
    rows = growth.curve_rows(found, "no Java")
    assert len(rows) == 2 * len(growth.SHOWN)
    assert {row["peer"] for row in rows if "ratio" in row} == {"gridwire, empty partition"}
    assert [growth.POINTS[row].places for row in (0, 3, 4, 5)] == [1, 1000, 100, 1000]


def test_recovery_is_judged_by_seconds() -> None:
    found = {name: [{"start_s": 0.5, "memory_mb": 70.0}] for name in ("full", "killed", "empty")}
    rows = recovery.goal_rows(found, "no Java")
    assert [run.met(row) for row in rows] == ["yes", "yes", ""]
    found["killed"][0]["start_s"] = 3.5
    assert run.met(recovery.goal_rows(found, "no Java")[1]) == "no"
