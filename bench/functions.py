"""How many events a second does a function deal with, how late is it, and how long does the first event wait?

    python bench/functions.py [--quick] [--rounds N] [--minutes M] [--only PART]

    rate     an unmodified function over list[func.EventHubEvent] that parses every event's JSON; one worker process.
             Peer: the same function behind the `azure-functions` package's own converters, as Azure's worker calls it,
             in one process. Events a second of worker CPU.
    arrow    a function over pyarrow.RecordBatch with declared columns that sums by meter; events a second, two workers.
             Peer: confluent-kafka and orjson in a plain loop that does the same, with its positions committed.
    quarters the same with sums by transformer and quarter hour, out of the log and committed with the position. Peers
             do it from a file and commit nothing: Pathway, Bytewax, orjson in a loop, DuckDB as one batch query (see
             stream_programs.py). All sums are compared.
    load     100,000 events a second through the Kafka endpoint, fsync before each acknowledgement, for M minutes; a
             function deals with every one. Milliseconds from before `produce` until the function's batch is done;
             counted, none missing, none twice. Published for the cloud original: 94 machines, p50 1.1 s, p99 11.9 s.
    cold     from an app without any worker process: milliseconds from sending an event until its output is there.

The hub is a process of its own; hosts are started as users start them. Events are JSON readings of about 110 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import orjson
import psutil

import stream_peers
import support
from gridwire.columnar.encode import encode_batch

PARTITIONS = 4
METERS = 5000
RATE = 100_000
GOAL_RATE = 300_000
GOAL_ARROW = 3_000_000
WORKERS = min(2, os.cpu_count() or 1)
QUARTERS_FROM_S = 1_767_571_200  # 2026-01-05T00:00Z
WAIT_S = 600.0

APP = '''
import json, time
import azure.functions as func

app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="rate", connection="C", cardinality="many")
@app.event_hub_output(arg_name="alerts", event_hub_name="alerts", connection="C")
def rate(events: list[func.EventHubEvent], alerts: func.Out[list[str]]):
    """What the samples do: parse each event, say something about a few."""
    found = []
    for event in events:
        reading = json.loads(event.get_body())
        if reading["value"] > 1499:
            found.append(json.dumps({"meter": reading["meter"], "value": reading["value"]}))
    alerts.set(found)
'''

ARROW = """
import azure.functions as func
import pyarrow as pa

app = func.FunctionApp()

@app.event_hub_message_trigger(
    arg_name="batch", event_hub_name="rate", connection="C", max_batch_size=200_000, max_batch_bytes=24_000_000,
    columns={"meter": "text", "at": "timestamp", "value": "float"})
@app.event_hub_output(arg_name="$return", event_hub_name="sums", connection="C")
def arrow(batch: pa.RecordBatch) -> pa.Table:
    return pa.table(batch).group_by("meter").aggregate([("value", "sum"), ("value", "count")])
"""

QUARTERS = """
import azure.functions as func
import pyarrow as pa
import pyarrow.compute as pc

app = func.FunctionApp()

@app.event_hub_message_trigger(
    arg_name="batch", event_hub_name="quarters", connection="C", max_batch_size=200_000, max_batch_bytes=24_000_000,
    columns={"transformer": "text", "at": "timestamp", "value": "float"})
@app.event_hub_output(arg_name="$return", event_hub_name="OUT", connection="C")
def quarters(batch: pa.RecordBatch) -> pa.Table:
    begin = pc.floor_temporal(batch["at"], 15, unit="minute")
    table = pa.table({"transformer": batch["transformer"], "begin": begin, "value": batch["value"]})
    return table.group_by(["transformer", "begin"]).aggregate([("value", "sum"), ("value", "count")])
"""

LOAD = """
import json, time
from collections import Counter
import azure.functions as func

app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="load", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="done", connection="C")
def load(events: list[func.EventHubEvent]) -> dict:
    sent, numbers = [], 0
    for event in events:
        reading = json.loads(event.get_body())
        sent.append(reading["sent"])
        numbers += reading["number"]
    now = time.time()
    late = Counter(round((now - at) * 1000) for at in sent)
    return {"count": len(events), "numbers": numbers, "late": list(late.items())}
"""

COLD = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="event", event_hub_name="cold", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="warm", connection="C")
def cold(event: func.EventHubEvent) -> bytes:
    return event.get_body()
"""


class App(support.Server):
    """`gridwire fn start` as a process."""

    def __init__(self, hub: support.Hub, directory: Path, name: str, code: str, *flags: str) -> None:
        home = directory / name
        home.mkdir(exist_ok=True)
        (home / "function_app.py").write_text(code)
        (home / "host.json").write_text('{"version": "2.0"}')
        command = [sys.executable, "-m", "gridwire", "fn", "start", str(home), "--hub", hub.http, "--port", "0", *flags]
        with (directory / f"{name}.log").open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            self.stop()
            raise RuntimeError(f"the app did not start: {(directory / f'{name}.log').read_text()[-2000:]}")
        self.http = self.process.stdout.readline().split()[1]

    def status(self) -> Any:
        with urllib.request.urlopen(self.http + "/admin/host/status", timeout=60) as answer:
            return json.load(answer)

    def events(self, function: str) -> float:
        return float(self.status()["functions"][function].get("events", 0))

    def workers_cpu_s(self) -> float:
        total = 0.0
        for pid in self.status()["worker_pids"]:
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
        return total


def values_of(count: int) -> list[bytes]:
    """Readings as JSON."""
    return [
        b'{"meter":"m-%05d","at":"2026-01-01T%02d:%02d:00Z","reading_type":"import_kwh","value":%d.%03d,"quality":"ok"}'
        % (n % METERS, n // 3600 % 24, n // 60 % 60, n % 1500, n % 1000)
        for n in range(count)
    ]


def fill(hub: support.Hub, name: str, count: int) -> None:
    """Put so many readings into a hub, spread over its partitions."""
    hub.request("POST", "/v1/hubs", {"name": name, "partitions": PARTITIONS})
    values = values_of(50_000)
    keys = [value[10:17] for value in values]
    batch = bytes(encode_batch(values, keys, int(time.time() * 1000)))
    for number in range(max(1, count // len(values))):
        send_batch(hub, name, number % PARTITIONS, batch)


def send_batch(hub: support.Hub, name: str, partition: int, batch: bytes) -> None:
    """A record batch as it is."""
    url = f"{hub.http}/v1/hubs/{name}/events?partition={partition}"
    request = urllib.request.Request(url, batch, {"content-type": "application/vnd.gridwire.batch"})
    urllib.request.urlopen(request, timeout=60).read()


def hub_events(hub: support.Hub, name: str) -> int:
    return int(hub.request("GET", f"/v1/hubs/{name}")["events"])


def until(condition: Any, step_s: float = 0.05) -> None:
    deadline = time.perf_counter() + WAIT_S
    while not condition():
        if time.perf_counter() > deadline:
            raise RuntimeError("it takes too long")
        time.sleep(step_s)


# -- rate ---------------------------------------------------------------------------------------------------------


def ours_rate(
    hub: support.Hub, directory: Path, name: str, code: str, function: str, workers: int, source: str = "rate"
) -> Mapping[str, float]:
    """Read a hub from its start: events a second, and a second of the workers' CPU, once a quarter is done.

    Before that workers are starting.
    """
    count = hub_events(hub, source)
    app = App(hub, directory, name, code, "--workers", str(workers), "--workers-min", str(workers), "--idle-s", "900")
    try:
        until(lambda: app.events(function) >= count / 4, 0.002)
        first, cpu, begun = app.events(function), app.workers_cpu_s(), time.perf_counter()
        until(lambda: app.events(function) >= count, 0.01)
        took = time.perf_counter() - begun
        cpu = app.workers_cpu_s() - cpu
        return {"wall": (count - first) / took, "cpu": (count - first) / cpu}
    finally:
        app.stop()


def converter_rate(count: int) -> float:
    """The package's own way from trigger data to the function, without gRPC around it."""
    import azure.functions as func
    from azure.functions.meta import Datum

    module: dict[str, Any] = {}
    exec(compile(APP, "app", "exec"), module)
    code = module["rate"]._function.get_user_function()
    decode = func.get_binding_registry().get("eventHubTrigger").decode
    values = values_of(1000)
    rounds = max(1, count // 1000)

    class Out:
        def set(self, value: Any) -> None:
            self.value = value

    system = json.dumps(
        [
            {"EnqueuedTimeUtc": "2026-01-01T00:00:00.123Z", "SequenceNumber": n, "Offset": str(n), "PartitionKey": "k"}
            for n in range(1000)
        ]
    )
    begun = time.process_time()
    for _ in range(rounds):
        data = Datum("[" + ",".join(value.decode() for value in values) + "]", "json")
        metadata = {"SystemPropertiesArray": Datum(system, "json")}
        code(decode(data, trigger_metadata=metadata), Out())
    return rounds * 1000 / (time.process_time() - begun)


def measure_rate(hub: support.Hub, directory: Path, rounds: int, quick: bool) -> list[dict[str, Any]]:
    numbers = iter(range(1000))

    def ours() -> float:
        name = f"rate{next(numbers)}"
        return ours_rate(hub, directory, name, APP, "rate", 1)["cpu"]

    found = support.interleave({"ours": ours, "peer": lambda: converter_rate(5_000 if quick else 30_000)}, rounds)
    what = "unmodified function, JSON in Python, events/s a worker core"
    return [support.row(what, found["ours"], "azure-functions' converters", found["peer"], goal_least=GOAL_RATE)]


# -- arrow --------------------------------------------------------------------------------------------------------


def loop_rate(hub: support.Hub, count: int, group: str) -> float:
    """The arrow function's work as a plain consumer."""
    consumer = ck.Consumer(
        {"bootstrap.servers": hub.kafka, "group.id": group, "auto.offset.reset": "earliest",
         "enable.auto.commit": False, "fetch.message.max.bytes": 8_000_000, "queued.max.messages.kbytes": 1_000_000}
    )  # fmt: skip
    consumer.subscribe(["rate"])
    sums: dict[str, float] = {}
    done, begun = 0, 0.0
    while done < count:
        messages = consumer.consume(10_000, 1.0)
        if messages and not begun:
            begun = time.perf_counter()
        for message in messages:
            reading = orjson.loads(message.value())
            sums[reading["meter"]] = sums.get(reading["meter"], 0.0) + reading["value"]
        done += len(messages)
    consumer.commit(asynchronous=False)
    took = time.perf_counter() - begun
    consumer.close()
    return done / took


def measure_arrow(hub: support.Hub, directory: Path, rounds: int, quick: bool) -> list[dict[str, Any]]:
    numbers = iter(range(1000))

    def ours() -> float:
        return ours_rate(hub, directory, f"arrow{next(numbers)}", ARROW, "arrow", WORKERS)["wall"]

    contenders = {"ours": ours, "loop": lambda: loop_rate(hub, 200_000 if quick else 1_000_000, f"loop{next(numbers)}")}
    found = support.interleave(contenders, rounds)
    what = "Arrow function, JSON readings to sums by meter, events/s"
    return [support.row(what, found["ours"], "client and orjson in a loop", found["loop"], goal_least=GOAL_ARROW)]


# -- quarters -----------------------------------------------------------------------------------------------------

PEERS = {
    "pathway": "Pathway, from a file",
    "bytewax": "Bytewax, from a file",
    "loop": "orjson in a loop, from a file",
    "duckdb": "DuckDB, one batch query of a file",
}

Sums = dict[tuple[str, str], tuple[int, int]]
"""(transformer, begin of the quarter hour) -> (sum in thousandths, count)."""


def quarter_readings(count: int) -> list[bytes]:
    """Readings of 2,500 meters at 50 transformers, each meter once a quarter hour, in the order of time."""
    found = []
    for n in range(count):
        quarter, meter = divmod(n, 2500)
        at_s = quarter * 900 + meter % 900
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(QUARTERS_FROM_S + at_s))
        found.append(
            b'{"meter":"m-%05d","transformer":"T-%03d","at":"%s","reading_type":"import_kwh","value":%d.%03d}'
            % (meter, meter // 50, at.encode(), n % 3, n * 7919 % 1000)
        )
    return found


def fill_quarters(hub: support.Hub, values: list[bytes], times: int) -> int:
    """The readings so many times in a row, by transformer spread over the partitions; how many that are."""
    hub.request("POST", "/v1/hubs", {"name": "quarters", "partitions": PARTITIONS})
    for partition in range(PARTITIONS):
        mine = [value for value in values if int(value[36:39]) % PARTITIONS == partition]
        keys = [value[34:39] for value in mine]
        pieces = [slice(at, at + 5_000) for at in range(0, len(mine), 5_000)]
        batches = [bytes(encode_batch(mine[piece], keys[piece], int(time.time() * 1000))) for piece in pieces]
        for _ in range(times):
            for batch in batches:
                send_batch(hub, "quarters", partition, batch)
    return len(values) * times


def handed_out(hub: support.Hub, name: str) -> Sums:
    """What the function said in all, its batches' sums added up."""
    consumer = ck.Consumer(
        {"bootstrap.servers": hub.kafka, "group.id": f"check-{name}", "auto.offset.reset": "earliest",
         "enable.auto.commit": False, "enable.partition.eof": True}
    )  # fmt: skip
    consumer.assign([ck.TopicPartition(name, number, 0) for number in range(PARTITIONS)])
    found: dict[tuple[str, str], list[int]] = {}
    ended = 0
    while ended < PARTITIONS:
        for message in consumer.consume(10_000, 1.0):
            if message.error() is not None:
                ended += 1
                continue
            row = orjson.loads(message.value())
            sums = found.setdefault((row["transformer"], row["begin"][:16].replace(" ", "T")), [0, 0])
            sums[0] += round(row["value_sum"] * 1000)
            sums[1] += row["value_count"]
    consumer.close()
    return {key: (total, count) for key, (total, count) in found.items()}


def measure_quarters(hub: support.Hub, directory: Path, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Everybody's sums must be the same, ours as many times as the hub has the readings."""
    values = quarter_readings(50_000 if quick else 500_000)
    path = directory / "readings.jsonl"
    path.write_bytes(b"\n".join(values) + b"\n")
    times = 2 if quick else 20
    fill_quarters(hub, values, times)
    numbers = iter(range(1000))
    sums: dict[str, Sums] = {}

    def ours() -> float:
        name = f"quarters{next(numbers)}"
        hub.request("POST", "/v1/hubs", {"name": f"{name}.sums", "partitions": PARTITIONS})
        code = QUARTERS.replace("OUT", f"{name}.sums")
        rate = ours_rate(hub, directory, name, code, "quarters", WORKERS, "quarters")["wall"]
        told = handed_out(hub, f"{name}.sums")
        sums["ours"] = {key: (total // times, count // times) for key, (total, count) in told.items()}
        return rate

    def peer(engine: str) -> float:
        took_s, sums[engine] = stream_peers.run(engine, path)
        return len(values) / took_s

    contenders = {"ours": ours}
    missing = ""
    try:
        stream_peers.fetch()
        contenders |= {engine: partial(peer, engine) for engine in PEERS}
    except stream_peers.StreamsUnavailable as error:
        missing = str(error)
    found = support.interleave(contenders, rounds)
    differing = [engine for engine in sums if sums[engine] != sums["ours"]]
    if differing:
        raise RuntimeError(f"the sums of {', '.join(differing)} are not ours")
    what = "Arrow function, JSON readings to quarter-hour sums by transformer, events/s"
    return [
        support.row(what, found["ours"], name, missing or found[engine], goal_least=GOAL_ARROW)
        for engine, name in PEERS.items()
    ]


# -- load ---------------------------------------------------------------------------------------------------------


def produce(kafka: str, seconds: float, rate: int) -> None:
    """Run as a process: send at a steady rate, then print how many, and the sum of their numbers."""
    producer = ck.Producer(
        {"bootstrap.servers": kafka, "linger.ms": 5, "batch.size": 262_144, "partitioner": "murmur2_random",
         "enable.idempotence": True, "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    failed = []
    keys = [b"m-%05d" % n for n in range(METERS)]
    began, sent = time.time(), 0
    while (passed := time.time() - began) < seconds:
        for _ in range(int(passed * rate) - sent):
            now = time.time()
            key = keys[sent % METERS]
            value = b'{"meter":"%b","sent":%.6f,"number":%d,"value":1.5,"quality":"ok","unit":"kWh"}' % (key, now, sent)
            producer.produce("load", value, key, on_delivery=lambda error, _: failed.append(error) if error else None)
            sent += 1
        producer.poll(0)
        time.sleep(0.002)
    left = producer.flush(60)
    print(json.dumps({"sent": sent, "numbers": sent * (sent - 1) // 2, "failed": len(failed) + left}))


def measure_load(hub: support.Hub, directory: Path, minutes: float) -> list[dict[str, Any]]:
    hub.request("POST", "/v1/hubs", {"name": "load", "partitions": PARTITIONS})
    app = App(hub, directory, "load", LOAD, "--workers-min", "1", "--idle-s", "900")
    try:
        command = [sys.executable, __file__, "--produce", hub.kafka, str(minutes * 60)]
        sender = subprocess.run(command, capture_output=True, text=True, check=True)
        told = json.loads(sender.stdout)
        until(lambda: app.events("load") >= told["sent"])
        until(lambda: app.status()["functions"]["load"]["lag_events"] == 0)
    finally:
        app.stop()
    late: Counter[int] = Counter()
    count = numbers = 0
    for partition in range(int(hub.request("GET", "/v1/hubs/done")["partitions"])):
        at = 0
        while True:
            page = hub.request("GET", f"/v1/hubs/done/events?partition={partition}&offset={at}&limit=10000")
            for event in page["events"]:
                count += event["value"]["count"]
                numbers += event["value"]["numbers"]
                late.update(dict(map(tuple, event["value"]["late"])))  # type: ignore[arg-type]
            if page["next"] >= page["end"]:
                break
            at = page["next"]
    whole = (count, numbers, told["failed"]) == (told["sent"], told["numbers"], 0)
    print(f"load: {told['sent']:,} sent in {minutes:g} min, {count:,} done, complete and single: {whole}", flush=True)
    if not whole:
        return [{"what": "100,000 events/s", "failed": f"sent {told}, done {count} with numbers {numbers}"}]
    rows = []
    for share, goal in ((0.5, 50.0), (0.99, 250.0)):
        what = f"100,000 events/s for {minutes:g} min, publish to done, p{share * 100:g} ms"
        rows.append(
            support.row(what, [quantile(late, share)], "none here", "published: 1,102 / 11,894 ms", goal_most=goal)
        )
    return rows


def quantile(late: Counter[int], share: float) -> float:
    """Nearest rank in a histogram."""
    wanted = share * sum(late.values())
    seen = 0
    for value in sorted(late):
        seen += late[value]
        if seen >= wanted:
            return float(value)
    return 0.0


# -- cold ---------------------------------------------------------------------------------------------------------


def measure_cold(hub: support.Hub, directory: Path, starts: int) -> list[dict[str, Any]]:
    hub.request("POST", "/v1/hubs", {"name": "cold", "partitions": 1})
    app = App(hub, directory, "cold", COLD, "--idle-s", "0.2")
    waits = []
    try:
        consumer = ck.Consumer({"bootstrap.servers": hub.kafka, "group.id": "cold", "auto.offset.reset": "earliest"})
        consumer.subscribe(["warm"])
        producer = ck.Producer({"bootstrap.servers": hub.kafka, "linger.ms": 0})
        for number in range(starts + 1):
            until(lambda: app.status()["workers"] == 0)
            begun = time.perf_counter()
            producer.produce("cold", b"%d" % number)
            producer.flush()
            while (message := consumer.poll(5.0)) is None or message.error():
                pass
            waits.append((time.perf_counter() - begun) * 1000)
        consumer.close()
    finally:
        app.stop()
    print("cold: " + " ".join(f"{wait:.0f}" for wait in waits), flush=True)
    what = "no worker to first output, p50 ms"
    median = statistics.median(waits[1:])  # the first one also joins the consumer's group
    return [support.row(what, [median], "", "no peer that scales to zero on one machine", goal_most=300.0)]


PARTS = ("rate", "arrow", "quarters", "load", "cold")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small: whether it runs, not how fast")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=None, help="of the load part [default: 5; 0.1 with --quick]")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given more than once")
    parser.add_argument("--produce", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.produce[0], float(options.produce[1]), RATE if not options.quick else 20_000)
        return
    rounds = 1 if options.quick else options.rounds
    minutes = options.minutes if options.minutes is not None else 0.1 if options.quick else 5.0
    parts = options.only or PARTS
    about = support.heading("functions", rounds=rounds)
    rows: list[dict[str, Any]] = []
    with support.scratch("functions") as directory:
        hub = support.Hub(directory)
        try:
            if "rate" in parts or "arrow" in parts:
                fill(hub, "rate", 200_000 if options.quick else 12_000_000)
            if "rate" in parts:
                rows += measure_rate(hub, directory, rounds, options.quick)
            if "arrow" in parts:
                rows += measure_arrow(hub, directory, rounds, options.quick)
            if "quarters" in parts:
                rows += measure_quarters(hub, directory, rounds, options.quick)
            if "load" in parts:
                rows += measure_load(hub, directory, minutes)
            if "cold" in parts:
                rows += measure_cold(hub, directory, 3 if options.quick else 20)
        finally:
            hub.stop()
    print_rows(rows)
    support.print_result(about | {"rows": rows})


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        ours = row.get("ours", {}).get("median", "-")
        theirs = row.get("theirs", {}).get("median", row.get("skipped", ""))
        print(f"{row['what']}: {ours} beside {row.get('peer', '')} {theirs} {row.get('failed', '')}", flush=True)


if __name__ == "__main__":
    main()
