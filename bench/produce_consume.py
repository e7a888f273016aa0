"""What rate does an unmodified Kafka client reach, and what does it cost the server?

    python bench/produce_consume.py [--quick] [--rounds N] [--partitions N] [--no-peer]

Servers, each a process of its own on this machine, one client process at a time:

    gridwire         as it comes: fdatasync before every acknowledgement
    gridwire os      --durability os: acknowledged from the page cache
    kafka            Apache Kafka as it comes: acknowledged from the page cache
    kafka flush      Apache Kafka with log.flush.interval.messages=1: synced before every acknowledgement
    tansu            Tansu (Rust) with storage in memory: nothing is ever on a disk

The client is confluent-kafka, see `kafka_client.py`. A round writes events of 100 B and of 1 KB to a new topic of each
server in turn, reads them back with consume(10,000), and sends single events one at a time for the latency. One whole
round goes before. Before each run everything unsynced is written out and memory is touched, so that nobody pays for
what another one left behind. The server's CPU is its whole process, all threads; its memory is read after the round.

What is measured is server and client on the same cores: a server that needs less leaves more to the client. The ratios,
taken within each round, are the result. The last line is JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import support
from kafka_client import drop_topic, make_topics, run_client
from kafka_peer import Kafka, PeerUnavailable
from support import Hub, Spread, pairwise, short, spread_text
from tansu_peer import Tansu, TansuUnavailable

SIZES: Final = {"100 B": 100, "1 KB": 1000}
OURS, OURS_OS, PEER, PEER_FLUSH, TANSU = "gridwire", "gridwire os", "kafka", "kafka flush", "tansu"
MEMORY_GOAL: Final = 0.25
"""Of what Kafka holds."""

Broker = Hub | Kafka | Tansu

# -- a round ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """How much of everything a run sends, and what is done before each part of it."""

    counts: dict[str, int]
    singles: int
    partitions: int
    before: Callable[[], None] = support.settle


def run(server: Broker, load: Load, number: list[int]) -> dict[str, float]:
    """Everything once with one server: produce and consume each size, then single sends."""
    found: dict[str, float] = {}
    for label, size in SIZES.items():
        number[0] += 1
        topic, count = f"bench-{number[0]}", load.counts[label]
        make_topics(server.kafka, topic, load.partitions)
        load.before()
        for kind, numbers in (("produce", (size, count)), ("consume", (load.partitions, 0, count))):
            before_s = server.cpu_s
            rate = run_client(kind, server.kafka, topic, *numbers)["events_s"]
            found[f"{kind} {label}"] = rate
            found[f"{kind} {label} cpu"] = (server.cpu_s - before_s) / count * 1e6
        drop_topic(server.kafka, topic)
    make_topics(server.kafka, "single", 1)
    load.before()
    single = run_client("single", server.kafka, "single", 100, load.singles)
    drop_topic(server.kafka, "single")
    found |= single
    found["memory_mb"] = server.memory_bytes / 1e6
    return found


def start_servers(stack: ExitStack, peer: bool) -> tuple[dict[str, Broker], dict[str, str]]:
    """All servers that can be had, and why the others cannot."""
    servers: dict[str, Broker] = {}
    missing: dict[str, str] = {}
    for name, flags in ((OURS, ()), (OURS_OS, ("--durability", "os"))):
        directory = stack.enter_context(support.scratch("bench"))
        servers[name] = Hub(directory, "--no-workers", *flags)
        stack.callback(servers[name].stop)
    peers: dict[str, Callable[[Path], Broker]] = {
        PEER: Kafka, PEER_FLUSH: partial(Kafka, flush=True), TANSU: Tansu
    }  # fmt: skip
    for name, start in peers.items():
        directory = stack.enter_context(support.scratch("peer"))
        try:
            if not peer:
                raise PeerUnavailable("left out by --no-peer")
            servers[name] = start(directory)
            stack.callback(servers[name].stop)
        except (PeerUnavailable, TansuUnavailable) as error:
            missing[name] = str(error)
    return servers, missing


# -- the report ---------------------------------------------------------------------------------------------------

_MEASURES: Final = tuple(f"{kind} {label}" for label in SIZES for kind in ("produce", "consume"))


def print_tables(found: dict[str, list[dict[str, float]]]) -> None:
    names = list(found)

    def cells(field: str) -> list[str]:
        return [spread_text(Spread.of([row[field] for row in found[name]])) for name in names]

    print(f"\nevents a second, median (min to max) of {len(found[OURS])} rounds")
    print(support.table(["", *names], [[measure, *cells(measure)] for measure in _MEASURES]))
    rates = {measure: SIZES[measure.split(" ", 1)[1]] for measure in _MEASURES}
    medians = {m: [Spread.of([row[m] for row in found[name]]).median for name in names] for m in _MEASURES}
    print("\nMB/s, median")
    print(support.table(["", *names], [[m, *(f"{v * rates[m] / 1e6:.0f}" for v in medians[m])] for m in _MEASURES]))
    print("\nCPU seconds of the server per million events")
    print(support.table(["", *names], [[measure, *cells(f"{measure} cpu")] for measure in _MEASURES]))
    print("\none event at a time, 100 B, milliseconds; memory of the server after the round, MB")
    rows = [["p50 ms", "p50_ms"], ["p99 ms", "p99_ms"], ["memory MB", "memory_mb"]]
    print(support.table(["", *names], [[shown, *cells(field)] for shown, field in rows]))


def goal_rows(found: dict[str, list[dict[str, float]]], missing: Mapping[str, str]) -> list[dict[str, Any]]:
    """What `make bench` puts into its table."""
    fsync = ", gridwire with fsync"
    rows = []
    for measure in _MEASURES:
        what, writes = f"Kafka {measure}{fsync}, events/s", measure.startswith("produce")
        rows.append(_row(what, found, measure, PEER, "kafka, no fsync", missing, {"goal_ratio": 1.0} if writes else {}))
        if writes:
            rows.append(_row(what, found, measure, PEER_FLUSH, "kafka, flush", missing))
        rows.append(_row(what, found, measure, TANSU, "tansu, memory only", missing))
    what = "memory of the server after that, MB"
    rows.append(_row(what, found, "memory_mb", PEER, "kafka, no fsync", missing, {"goal_ratio_most": MEMORY_GOAL}))
    for field, shown in (("p50_ms", "p50"), ("p99_ms", "p99")):
        what = f"one event at a time, 100 B{fsync}, {shown} ms"
        rows.append(_row(what, found, field, PEER_FLUSH, "kafka, flush", missing))
    return rows


def _row(
    what: str, found: dict[str, list[dict[str, float]]], field: str, peer: str, shown: str, missing: Mapping[str, str],
    goals: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    ours = [row[field] for row in found[OURS]]
    theirs = [row[field] for row in found[peer]] if peer in found else missing.get(peer, "not started")
    return support.row(what, ours, shown, theirs, **goals or {})


def print_ratios(found: dict[str, list[dict[str, float]]]) -> None:
    print("\ngridwire with fsync against each peer, ratio within each round, median (min to max)")
    peers = [name for name in found if name != OURS]
    lines = []
    for measure in _MEASURES:
        ours = [row[measure] for row in found[OURS]]
        against = [Spread.of(pairwise(ours, [row[measure] for row in found[name]])) for name in peers]
        lines.append([measure, *(spread_text(ratio) for ratio in against)])
    print(support.table(["", *(f"/ {name}" for name in peers)], lines))


def measure_all(options: argparse.Namespace) -> None:
    rounds = options.rounds or (2 if options.quick else 5)
    counts = {"100 B": 150_000, "1 KB": 50_000} if options.quick else {"100 B": 1_000_000, "1 KB": 300_000}
    settle = partial(support.settle, 0.25) if options.quick else support.settle
    load = Load(counts, 100 if options.quick else 1000, options.partitions, settle)
    about = support.heading("produce_consume", rounds=rounds, partitions=options.partitions)
    print("sent a round: " + ", ".join(f"{short(count)} events of {label}" for label, count in counts.items()))
    support.touch_memory(1 if options.quick else 4)
    with ExitStack() as stack:
        servers, missing = start_servers(stack, not options.no_peer)
        for name, reason in missing.items():
            print(f"SKIPPED: {name}, {reason}")
        number = [0]
        warm = Load(counts, load.singles, options.partitions, lambda: None)
        for server in servers.values():  # a whole round: the peer's compiler needs about that
            run(server, warm, number)
        found = support.interleave(
            {name: partial(run, server, load, number) for name, server in servers.items()}, rounds
        )
    print_tables(found)
    print_ratios(found)
    medians = {
        name: {field: round(Spread.of([row[field] for row in rows]).median, 3) for field in rows[0]}
        for name, rows in found.items()
    }
    support.print_result(about | {"medians": medians, "rows": goal_rows(found, missing)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--partitions", type=int, default=1, help="of every topic [default: 1]")
    parser.add_argument("--no-peer", action="store_true", help="gridwire alone")
    measure_all(parser.parse_args())


if __name__ == "__main__":
    main()
