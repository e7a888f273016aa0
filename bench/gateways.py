"""How many events a second does one gateway take in, over HTTP and over AMQP, beside an embedded hub?

    python bench/gateways.py [--quick] [--rounds N]

    hub        `gridwire up`: its own log, fsync before it answers
    gateway    `gridwire up --broker kafka://...`: one real Kafka of one node, as it comes (acks=all, no fsync)

The clients are the same for both, two processes of them on the same machine: HTTP posts 500 lines of 100 B over eight
connections each, AMQP is the unmodified Azure SDK with a batch of 500 events of 100 B on four connections each. What
they send was encoded before the clock runs, as far as the client allows. A request is answered when its events are as
durable as the server promises. The clock runs from the first request to the last answer.

Clients, server and Kafka share the processors, so a rate is of all of them; events by processor second are of the
gateway's or hub's process alone, and tell what one would reach with a processor of its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import support
from kafka_peer import Kafka, PeerUnavailable
from support import Hub

EVENTS: Final = 500
SIZE: Final = 100
PARTITIONS: Final = 8
CLIENTS: Final = 2
CONNECTIONS: Final = {"http": 8, "amqp": 4}
CLIENT_S: Final = 300.0


# -- the client's side of the process ------------------------------------------------------------------------------


def http_sender(address: str, hub: str, partition: int) -> Callable[[], None]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    body = b"\n".join(json.dumps("x" * (SIZE - 2)).encode() for _ in range(EVENTS))
    path = f"/v1/hubs/{hub}/events?partition={partition}"

    def send() -> None:
        connection.request("POST", path, body, {"content-type": "application/x-ndjson"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{answer.status} {answer.read()[:300]!r}")
        answer.read()

    return send


def amqp_sender(address: str, hub: str, partition: int) -> Callable[[], None]:
    from azure.eventhub import EventData, EventHubProducerClient

    place = address.removeprefix("amqp://")
    text = f"Endpoint=sb://{place};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true"
    client = EventHubProducerClient.from_connection_string(text, eventhub_name=hub)
    batch = client.create_batch(partition_id=str(partition))
    for _ in range(EVENTS):
        batch.add(EventData(b"x" * SIZE))
    return lambda: client.send_batch(batch)


def client(kind: str, address: str, hub: str, number: int, requests: int) -> None:
    """Send on every connection, once told to; prints when that began and ended."""
    make = {"http": http_sender, "amqp": amqp_sender}[kind]
    count = CONNECTIONS[kind]
    senders = [make(address, hub, (number * count + turn) % PARTITIONS) for turn in range(count)]
    for send in senders:
        send()  # connections are made, links attached
    print("ready", flush=True)
    sys.stdin.readline()

    def work(send: Callable[[], None]) -> None:
        for _ in range(requests):
            send()

    threads = [threading.Thread(target=work, args=(send,)) for send in senders]
    begun_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([begun_s, time.monotonic()]), flush=True)


# -- measuring -----------------------------------------------------------------------------------------------------


def rates(kind: str, server: Hub, requests: int) -> tuple[float, float]:
    """Events a second, and events a second of the server's processor time."""
    name = f"h{uuid.uuid4().hex[:8]}"
    server.request("POST", "/v1/hubs", {"name": name, "partitions": PARTITIONS})
    address = server.http if kind == "http" else server.amqp
    command = [sys.executable, __file__, "--client", kind, address, name]
    clients = [
        subprocess.Popen([*command, str(n), str(requests)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(CLIENTS)
    ]
    try:
        for each in clients:
            assert each.stdout is not None
            if each.stdout.readline() != "ready\n":
                raise SystemExit(f"a client of {kind} did not get ready")
        before_s = server.cpu_s
        for each in clients:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        spans = [json.loads(each.communicate(timeout=CLIENT_S)[0]) for each in clients]
        used_s = server.cpu_s - before_s
    finally:
        for each in clients:
            each.kill()
            each.wait()
    events = CLIENTS * CONNECTIONS[kind] * requests * EVENTS
    seconds = max(end for _, end in spans) - min(begun for begun, _ in spans)
    return events / seconds, events / used_s


def rows_of(found: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    rows = []
    for kind in CONNECTIONS:
        for which, what in enumerate(("/s", "/s of its processor")):
            ours, peer = ([each[which] for each in found[f"{server} {kind}"]] for server in ("gateway", "hub"))
            rows.append(support.row(f"one gateway, {kind.upper()} in, events{what}", ours, "embedded hub", peer))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--client", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        kind, address, hub, number, requests = options.client
        client(kind, address, hub, int(number), int(requests))
        return
    requests = {"http": 60, "amqp": 30} if options.quick else {"http": 200, "amqp": 100}
    rounds = options.rounds or (3 if options.quick else 5)
    about = support.heading("gateways", rounds=rounds)
    try:
        with support.scratch("gateways") as directory:
            kafka = Kafka(directory / "kafka")
            servers: dict[str, Hub] = {}
            try:
                for name in ("hub", "gateway"):
                    (directory / name).mkdir()
                    flags = ["--broker", f"kafka://{kafka.kafka}"] if name == "gateway" else []
                    servers[name] = Hub(directory / name, "--no-workers", *flags, amqp_port="0")
                contenders = {
                    f"{name} {kind}": lambda kind=kind, server=server: rates(kind, server, requests[kind])  # type: ignore[misc]
                    for kind in CONNECTIONS
                    for name, server in servers.items()
                }
                found = support.interleave(contenders, rounds, support.settle)
            finally:
                for server in servers.values():
                    server.stop()
                kafka.stop()
    except PeerUnavailable as reason:
        support.print_result(about | {"rows": [support.no_row("a gateway over Kafka", str(reason))]})
        return
    for name, pairs in found.items():
        for which, unit in enumerate(("events/s", "events/s of its processor")):
            print(f"{name:13} {support.spread_text(support.Spread.of([pair[which] for pair in pairs]))} {unit}")
    support.print_result(about | {"rows": rows_of(found)})


if __name__ == "__main__":
    main()
