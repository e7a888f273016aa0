"""How many events a second go in and out over AMQP 1.0, and what does an idle receiver cost?

    python bench/amqp.py [--quick] [--rounds N] [--no-peer]

    gridwire    `gridwire up` as it comes: fdatasync before every acceptance
    rabbitmq    RabbitMQ with its AMQP 1.0 plugin: durable queues, durable messages, confirmed

Single events of 100 B, one per transfer, unsettled, come from 16 senders on each of four connections to four partitions
or four queues; then a client drains what they brought, settled, with credit for all. The raw client is the same for
both (`amqp_client.py`, one process). RabbitMQ's events have a header that asks for durability, 7 B that the hub does
not need, and it gets fewer of them, for it is slower and the rates are what is compared.

The rows "with properties" are the same with a header, properties (a message-id that is new every time, subject,
correlation-id, content-type) and three application properties: 10 values that become 11 headers of a record.

Only the hub takes batches of 1,000 events a transfer: from the raw client, which keeps 16 of them under way on each
connection, and from the unmodified Azure SDK, one producer that waits for each acceptance. Memory is resident memory of
the server's process with 1,000 receivers on ten connections, each in a group of its own, less what it was before.

Client and server share the processors. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import uuid
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import support
from rabbitmq_peer import Rabbit, RabbitUnavailable
from support import Hub

PARTITIONS: Final = 4
RECEIVERS: Final = 1000
CLIENT: Final = str(Path(__file__).with_name("amqp_client.py"))
CLIENT_S: Final = 300.0
OURS, PEER = "gridwire", "rabbitmq"
EVENTS: Final = {
    "send": 400_000, "sections": 300_000, "batches": 4_000_000, "section batches": 1_000_000,
    "sdk": 1_000_000, "sdk build": 100_000,
}  # fmt: skip
PEER_EVENTS: Final = 60_000
QUICK: Final = 4
"""A quick run has a share of this many of the events."""
GOALS: Final = {"batches": 1e6, "send": 100e3, "drain": 400e3, "sections": 100e3, "section batches": 100e3}
SHOWN: Final = {
    "batches": "AMQP in, batches of 1,000, fsync, events/s",
    "send": "AMQP in, one event per transfer, fsync, events/s",
    "drain": "AMQP out to a draining client, events/s",
    "section batches": "AMQP in, batches of 1,000 events with properties, fsync, events/s",
    "sections": "AMQP in, one event with properties per transfer, fsync, events/s",
    "section drain": "AMQP out to a draining client, events with properties, events/s",
    "sdk": "Azure SDK for Python in, prebuilt batches, fsync, events/s",
    "sdk build": "Azure SDK for Python in, building its batches, fsync, events/s",
    "idle": f"memory for {RECEIVERS:,} idle AMQP receivers, MB",
}

Found = dict[str, float]


def client(kind: str, address: str, events: int, nodes: list[str]) -> float:
    """What the client measured, in a process of its own."""
    command = [sys.executable, CLIENT, kind, address, str(events), *nodes]
    told = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_S, check=False)
    if told.returncode:
        raise RuntimeError(f"{kind} to {address}: {told.stderr[-500:]}")
    return float(json.loads(told.stdout.splitlines()[-1]))


def new_hub(server: Hub) -> str:
    """The name of an empty hub."""
    name = f"h{uuid.uuid4().hex[:8]}"
    server.request("POST", "/v1/hubs", {"name": name, "partitions": PARTITIONS})
    return name


def ours(server: Hub, share: int) -> Found:
    """Everything once against the hub."""
    events = {kind: count // share for kind, count in EVENTS.items()}
    hubs = [new_hub(server) for _ in range(3)]
    places = [[f"{hub}/Partitions/{number}" for number in range(PARTITIONS)] for hub in hubs]
    found: Found = {}
    for kind, drained, at in (("send", "drain", 0), ("sections", "section drain", 1)):
        found[kind] = client(kind, server.amqp, events[kind], places[at])
        groups = [f"{hubs[at]}/ConsumerGroups/$Default/Partitions/{number}" for number in range(PARTITIONS)]
        found[drained] = client("drain", server.amqp, events[kind], groups)
        support.settle(0.25)
    for kind in ("batches", "section batches"):
        found[kind] = client(kind, server.amqp, events[kind], places[2])
    if importlib.util.find_spec("azure.eventhub") is not None:
        for kind in ("sdk", "sdk build"):
            found[kind] = client(kind, server.amqp, events[kind], [hubs[2]])
    for name in hubs:
        server.request("DELETE", f"/v1/hubs/{name}")
    return found


def theirs(server: Rabbit, share: int) -> Found:
    """What the peer can do too: in and out again, through new queues."""
    queues = [f"/queue/q{uuid.uuid4().hex[:8]}" for _ in range(PARTITIONS)]
    events = PEER_EVENTS // share
    return {
        "send": client("durable", server.amqp, events, queues),
        "drain": client("drain", server.amqp, events, queues),
    }


def idle_mb(server: Hub) -> float:
    """What so many receivers take that wait without credit."""
    command = [sys.executable, CLIENT, "idle", server.amqp, str(RECEIVERS), new_hub(server)]
    before = server.memory_bytes
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the idle receivers did not attach")
            return (server.memory_bytes - before) / 1e6
        finally:
            process.kill()


def rows_of(found: dict[str, list[Found]], idle: list[float], missing: str) -> list[dict[str, Any]]:
    rows = []
    for kind in SHOWN:
        if kind == "idle":
            continue
        if kind not in found[OURS][0]:
            rows.append(support.no_row(SHOWN[kind], "azure-eventhub is not installed"))
            continue
        if kind in ("send", "drain"):
            peer, figures = "RabbitMQ, durable", [each[kind] for each in found[PEER]] if PEER in found else missing
        else:
            peer, figures = "", "the peer has no such thing"
        goals = {"goal_least": GOALS.get(kind)}
        rows.append(support.row(SHOWN[kind], [each[kind] for each in found[OURS]], peer, figures, **goals))
    return [*rows, support.row(SHOWN["idle"], idle, "", "not asked of a peer")]


def start(stack: ExitStack, peer: bool) -> tuple[dict[str, Hub | Rabbit], str]:
    """The servers that can be had, and why the peer is missing if it is."""
    hub = Hub(stack.enter_context(support.scratch("amqp")), "--no-workers", amqp_port="0")
    stack.callback(hub.stop)
    servers: dict[str, Hub | Rabbit] = {OURS: hub}
    if not peer:
        return servers, "left out by --no-peer"
    try:
        rabbit = Rabbit(stack.enter_context(support.scratch("rabbitmq")))
    except RabbitUnavailable as error:
        return servers, str(error)
    stack.callback(rabbit.stop)
    print(f"peer: RabbitMQ {rabbit.version}")
    return servers | {PEER: rabbit}, ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without RabbitMQ")
    options = parser.parse_args()
    rounds, share = options.rounds or (3 if options.quick else 5), QUICK if options.quick else 1
    about = support.heading("amqp", rounds=rounds)
    with ExitStack() as stack:
        servers, missing = start(stack, not options.no_peer)
        if missing:
            print(f"SKIPPED: RabbitMQ, {missing}")
        runs = {
            name: partial(ours, each, share) if isinstance(each, Hub) else partial(theirs, each, share)
            for name, each in servers.items()
        }
        hub = servers[OURS]
        assert isinstance(hub, Hub)
        idle = [idle_mb(hub)]  # before the others: a heap that had more takes nothing new
        for run in runs.values():
            run()
        found = support.interleave(runs, rounds, partial(support.settle, 0.25))
    rows = rows_of(found, idle, missing)
    for row in rows:
        ratio = f", {row['ratio']['median']:.3g} times the peer's" if "ratio" in row else ""
        figure = support.spread_text(support.Spread(**row["ours"])) if "ours" in row else row["skipped"]
        print(f"{row['what']:66} {figure}{ratio}")
    support.print_result(about | {"rows": rows})


if __name__ == "__main__":
    main()
