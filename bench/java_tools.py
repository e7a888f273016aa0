"""What rate do Kafka's own Java performance tools reach, beside their own broker?

    python bench/java_tools.py [--quick] [--rounds N] [--no-peer]

ProducerPerformance and ConsumerPerformance of Apache Kafka, unmodified, from its Maven artifacts, with events of 100 B
and of 1 KB against

    gridwire       as it comes: fdatasync before every acknowledgement
    kafka          Apache Kafka as it comes: acknowledged from the page cache
    kafka flush    Apache Kafka with log.flush.interval.messages=1: synced before every acknowledgement

one after the other in each round, a new topic of one partition each time. The producer runs with the Java client's
defaults (idempotent, acks=all) but for linger 5 ms and batches of 256 KB: the batches of 16 KB it makes by itself
measure requests, not events. Figures are those the tools print: events a second from the first to the last, and for the
consumer those of its fetching, without the time it takes to join its group. A round that does not count comes first.
Needs Java 17 and Maven; without them everything is skipped. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count as counting
from typing import Any, Final

import support
from kafka_client import drop_topic, make_topics
from kafka_peer import Kafka, PeerUnavailable, fetch, java
from support import Hub, Spread, spread_text

TOOL_S: Final = 180.0
TOOLS: Final = "org.apache.kafka.tools."
SIZES: Final = {"100 B": 100, "1 KB": 1000}
OURS, PEER, PEER_FLUSH = "gridwire", "kafka", "kafka flush"
PRODUCER: Final = ("linger.ms=5", "batch.size=262144")


class Tools:
    """Kafka's command line tools. Raises PeerUnavailable."""

    def __init__(self) -> None:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
        self._command = [java(), "-Xmx512m", quiet, "-cp", f"{fetch()}{os.sep}*"]

    def run(self, tool: str, *arguments: str) -> str:
        """What a tool printed. Raises RuntimeError when it fails."""
        command = [*self._command, TOOLS + tool, *arguments]
        told = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S, check=False)
        if told.returncode:
            raise RuntimeError(f"{tool} failed: {(told.stderr or told.stdout)[-500:]}")
        return told.stdout

    def produce(self, address: str, topic: str, size: int, count: int) -> float:
        """Events a second acknowledged."""
        return produced_rate(
            self.run(
                "ProducerPerformance", "--topic", topic, "--num-records", str(count), "--record-size", str(size),
                "--throughput", "-1", "--producer-props", f"bootstrap.servers={address}", *PRODUCER,
            ), count
        )  # fmt: skip

    def consume(self, address: str, topic: str, count: int) -> float:
        """Events a second fetched."""
        arguments = ["--topic", topic, "--num-records", str(count), "--timeout", "30000"]
        return consumed_rate(self.run("ConsumerPerformance", "--bootstrap-server", address, *arguments), count)


def produced_rate(told: str, count: int) -> float:
    """Out of `1000000 records sent, 812347.7 records/sec (77.47 MB/sec), ...`. Raises RuntimeError."""
    for line in told.splitlines():
        words = line.replace(",", " ").split()
        if words[:3] == [str(count), "records", "sent"]:
            return float(words[3])
    raise RuntimeError(f"not all {count} events were sent: {told[-300:]}")


def consumed_rate(told: str, count: int) -> float:
    """Out of a line of names and one of figures, separated by commas. Raises RuntimeError."""
    lines = [line for line in told.splitlines() if "," in line]
    names = [each.strip() for each in lines[0].split(",")]
    row = dict(zip(names, (each.strip() for each in lines[1].split(",")), strict=True))
    if float(row["data.consumed.in.nMsg"]) < count:
        raise RuntimeError(f"{row['data.consumed.in.nMsg']} of {count} events were read")
    return float(row["fetch.nMsg.sec"])


@dataclass(frozen=True, slots=True)
class Load:
    """The tools, and how many events of each size they send."""

    tools: Tools
    counts: Mapping[str, int]
    numbers: Any

    def run(self, server: Hub | Kafka) -> dict[str, float]:
        """Everything once with one server."""
        found = {}
        for label, size in SIZES.items():
            topic, count = f"java-{next(self.numbers)}", self.counts[label]
            make_topics(server.kafka, topic, 1)
            support.settle(0.25)
            found[f"produce {label}"] = self.tools.produce(server.kafka, topic, size, count)
            found[f"consume {label}"] = self.tools.consume(server.kafka, topic, count)
            drop_topic(server.kafka, topic)
        return found


def start_servers(stack: ExitStack, peer: bool) -> tuple[dict[str, Hub | Kafka], str]:
    """gridwire and, if wanted, both Kafkas."""
    servers: dict[str, Hub | Kafka] = {OURS: Hub(stack.enter_context(support.scratch("java")), "--no-workers")}
    stack.callback(servers[OURS].stop)
    if not peer:
        return servers, "left out by --no-peer"
    for name, flush in ((PEER, False), (PEER_FLUSH, True)):
        servers[name] = Kafka(stack.enter_context(support.scratch("kafka")), flush=flush)
        stack.callback(servers[name].stop)
    return servers, ""


def goal_rows(found: Mapping[str, list[dict[str, float]]], missing: str) -> list[dict[str, Any]]:
    """What `make bench` puts into its table."""
    rows = []
    for measure in found[OURS][0]:
        writes = measure.startswith("produce")
        for peer, shown in ((PEER, "kafka, no fsync"), (PEER_FLUSH, "kafka, flush")) if writes else ((PEER, "kafka"),):
            theirs = [each[measure] for each in found[peer]] if peer in found else missing
            goals = {"goal_ratio": 1.0} if writes and peer == PEER else {}
            what = f"Java perf tools, {measure}, gridwire with fsync, events/s"
            rows.append(support.row(what, [each[measure] for each in found[OURS]], shown, theirs, **goals))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without Apache Kafka's broker")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 3)
    counts = {"100 B": 500_000, "1 KB": 150_000} if options.quick else {"100 B": 2_000_000, "1 KB": 400_000}
    about = support.heading("java_tools", rounds=rounds)
    try:
        tools = Tools()
    except PeerUnavailable as error:
        print(f"SKIPPED: {error}")
        support.print_result(about | {"rows": [support.no_row("Java perf tools", str(error))]})
        return
    support.touch_memory(1)
    with ExitStack() as stack:
        servers, missing = start_servers(stack, not options.no_peer)
        load = Load(tools, counts, counting(1))
        for server in servers.values():  # the peer's compiler needs about that
            load.run(server)
        found = support.interleave({name: partial(load.run, each) for name, each in servers.items()}, rounds)
    print(f"\nevents a second, median (min to max) of {rounds} rounds")
    lines = [
        [measure, *(spread_text(Spread.of([each[measure] for each in rows])) for rows in found.values())]
        for measure in found[OURS][0]
    ]
    print(support.table(["", *found], lines))
    support.print_result(about | {"rows": goal_rows(found, missing)})


if __name__ == "__main__":
    main()
