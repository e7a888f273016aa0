"""What the benchmarks share: spreads, ratios, turns, and servers that are stopped whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import kafka_peer
import support


def test_a_spread_is_least_median_largest() -> None:
    assert support.Spread.of([5.0, 1.0, 3.0, 2.0]) == support.Spread(1.0, 2.5, 5.0)
    with pytest.raises(ValueError):
        support.Spread.of([])


def test_ratios_are_taken_within_a_round() -> None:
    assert support.pairwise([10, 1], [5, 2]) == [2.0, 0.5]
    with pytest.raises(ValueError):
        support.pairwise([1, 2], [1])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)], ids=["least", "p50", "p99", "largest"]
)
def test_percentile_by_nearest_rank(share: float, expected: int) -> None:
    assert support.percentile(list(range(100, 0, -1)), share) == expected


def test_percentile_of_one_value() -> None:
    assert support.percentile([7.0], 0.99) == 7.0


def test_everybody_runs_once_a_round_and_nobody_is_always_first() -> None:
    order: list[str] = []
    settled: list[int] = []

    def run(name: str) -> int:
        order.append(name)
        return len(order)

    found = support.interleave(
        {name: lambda name=name: run(name) for name in "abc"},  # type: ignore[misc]
        3,
        lambda: settled.append(len(order)),
    )
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
    assert settled == list(range(9))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1_243_000, "1.24 M"), (812_400, "812 k"), (9_950, "9.9 k"), (130, "130"), (1.5, "1.5"), (0.4321, "0.432")],
)
def test_figures_as_people_say_them(value: float, shown: str) -> None:
    assert support.short(value) == shown


def test_tables_for_terminal_and_document_hold_the_same_cells() -> None:
    head, rows = ("what", "a"), [["produce", "1.2 M"], ["x", "3"]]
    lines = support.table(head, rows).splitlines()
    assert lines[0].split() == ["what", "a"]
    assert lines[2] == "produce  1.2 M"
    assert lines[3] == "x            3"
    assert support.markdown_table(head, rows).splitlines() == [
        "| what | a |",
        "| --- | --- |",
        "| produce | 1.2 M |",
        "| x | 3 |",
    ]


def test_the_hub_is_started_measured_and_stopped(tmp_path: Path) -> None:
    hub = support.Hub(tmp_path, "--no-workers")
    try:
        assert hub.request("GET", "/v1/status")["ready"] is True
        assert 0 < hub.start_s < support.START_S
        assert hub.memory_bytes > 10_000_000
        assert hub.cpu_s > 0
    finally:
        hub.stop()
    assert hub.process.returncode == 0


def test_a_hub_that_cannot_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="durability must be"):
        support.Hub(tmp_path, "--durability", "sometimes")


class Deaf(support.Server):
    """A server that ignores SIGTERM."""

    def __init__(self) -> None:
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.process.stdout.readline()


@pytest.mark.skipif(os.name == "nt", reason="there SIGTERM cannot be ignored")
def test_a_server_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "STOP_S", 0.2)
    server = Deaf()
    server.stop()
    assert server.process.returncode == -9
    server.stop()  # a second time is harmless


# -- the peer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\n', 17),
        ('java version "1.8.0_202"\n', 8),
        ('openjdk version "22-ea" 2024-03-19\n', 22),
        ("command not found\n", 0),
    ],
)
def test_java_version(told: str, major: int) -> None:
    assert kafka_peer.java_major(told) == major


def test_without_java_the_peer_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kafka_peer.PeerUnavailable, match="Java is not installed"):
        kafka_peer.Kafka(tmp_path / "data")


def test_without_maven_the_peer_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kafka_peer.PeerUnavailable, match="Maven is not installed"):
        kafka_peer.fetch(tmp_path / "cache")


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for Maven")
def test_a_fetch_that_fails_is_not_taken_for_a_whole_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] no network'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    with pytest.raises(kafka_peer.PeerUnavailable, match="no network"):
        kafka_peer.fetch(tmp_path / "cache")
    maven.write_text('#!/bin/sh\nfor a in "$@"; do case $a in -DoutputDirectory=*) mkdir -p "${a#*=}";; esac; done\n')
    libs = kafka_peer.fetch(tmp_path / "cache")
    maven.write_text("#!/bin/sh\nexit 1\n")
    assert kafka_peer.fetch(tmp_path / "cache") == libs  # kept: Maven is not asked again
