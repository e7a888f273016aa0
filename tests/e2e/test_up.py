"""`gridwire up` as its users meet it: clients of every kind on one hub, restarts, and errors that say what to do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer

import guide

KCAT = shutil.which("kcat")
CURL = shutil.which("curl")


def confluent_write(hub: Any, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": hub.kafka, "enable.idempotence": True})
    producer.produce("shared", value, b"k")
    assert producer.flush(30) == 0


def confluent_read(hub: Any, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": hub.kafka, "group.id": "g-confluent", "auto.offset.reset": "earliest"})
    consumer.subscribe(["shared"])
    found: list[bytes] = []
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            found.append(message.value())
    consumer.commit(asynchronous=False)
    consumer.close()
    return found


def aiokafka_write(hub: Any, value: bytes) -> None:
    async def scenario() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=hub.kafka, acks="all", compression_type="gzip")
        await producer.start()
        await producer.send_and_wait("shared", value, b"k")
        await producer.stop()

    asyncio.run(scenario())


def aiokafka_read(hub: Any, count: int) -> list[bytes]:
    async def scenario() -> list[bytes]:
        consumer = AIOKafkaConsumer(
            "shared", bootstrap_servers=hub.kafka, group_id="g-aio", auto_offset_reset="earliest"
        )
        await consumer.start()
        found = [(await asyncio.wait_for(consumer.getone(), 60)).value for _ in range(count)]
        await consumer.stop()
        return found

    return asyncio.run(scenario())


def kcat(hub: Any, *arguments: str, text: bytes = b"") -> bytes:
    assert KCAT is not None
    command = [KCAT, "-b", hub.kafka, "-t", "shared", *arguments]
    return subprocess.run(command, input=text, capture_output=True, check=True, timeout=60).stdout


def curl(*arguments: str) -> bytes:
    assert CURL is not None
    return subprocess.run([CURL, "-sS", "--max-time", "30", *arguments], capture_output=True, check=True).stdout


@pytest.mark.skipif(KCAT is None or CURL is None, reason="kcat and curl are needed; `make test` installs them as root")
def test_four_clients_write_and_read_the_same_hub_and_find_it_again(start_hub: Any) -> None:
    hub = start_hub()
    hub.cli("hub", "create", "shared", "--partitions", "3")
    confluent_write(hub, b'{"from":"confluent"}')
    aiokafka_write(hub, b'{"from":"aiokafka"}')
    kcat(hub, "-P", "-k", "k", text=b'{"from":"kcat"}\n')
    url = f"{hub.http}/v1/hubs/shared/events?key=k"
    answer = json.loads(curl(url, "-H", "content-type: application/json", "-d", '{"from":"curl"}'))
    assert answer["durable"] is True
    wanted = sorted(b'{"from":"%s"}' % name for name in (b"confluent", b"aiokafka", b"kcat", b"curl"))
    assert sorted(confluent_read(hub, 4)) == wanted
    assert sorted(aiokafka_read(hub, 4)) == wanted
    assert sorted(kcat(hub, "-C", "-e", "-q").splitlines()) == wanted
    pages = [hub.get(f"/v1/hubs/shared/events?partition={n}&offset=earliest") for n in range(3)]
    assert sorted(json.dumps(e["value"], separators=(",", ":")).encode() for p in pages for e in p["events"]) == wanted
    hub.kill()
    hub = start_hub()
    assert sorted(kcat(hub, "-C", "-e", "-q").splitlines()) == wanted
    groups = {row["group"]: row["lag_events"] for row in hub.get("/v1/groups")["groups"]}
    assert groups["g-confluent"] == 0
    assert hub.stop() == 0


def test_ready_means_serving_and_sigterm_means_zero(start_hub: Any) -> None:
    hub = start_hub()
    assert hub.get("/readyz")["ready"] is True
    status = hub.get("/v1/status")
    assert (status["durability"], status["endpoints"]["kafka"]) == ("fsync", hub.kafka)
    assert hub.stop() == 0


def test_a_head_that_is_off_is_not_there(start_hub: Any) -> None:
    hub = start_hub(kafka_port="off")
    assert "kafka" not in hub.get("/v1/status")["endpoints"]


def fails(gridwire_cli: Any, *arguments: str) -> str:
    done = gridwire_cli(*arguments, check=False)
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("gridwire: ")]
    assert len(lines) == 1, done.stderr
    return str(lines[0])


def test_operator_errors_are_one_sentence_with_the_next_step(start_hub: Any, gridwire_cli: Any, tmp_path: Path) -> None:
    free = ("--kafka-port", "0", "--http-port", "0")
    hub = start_hub()
    assert "in use by another hub" in fails(gridwire_cli, "up", "--data", str(hub.data), *free)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        other = str(tmp_path / "other")
        told = fails(gridwire_cli, "up", "--data", other, "--kafka-port", port, "--http-port", "0")
        assert "--kafka-port" in told
        told = fails(gridwire_cli, "up", "--data", other, "--kafka-port", "0", "--http-port", port)
        assert "--http-port" in told
    (tmp_path / "file").write_text("")
    assert "--data" in fails(gridwire_cli, "up", "--data", str(tmp_path / "file"), *free)
    assert "insecure" in fails(gridwire_cli, "up", "--data", other, "--host", "0.0.0.0", *free)
    assert "fsync, interval:MS or os" in fails(gridwire_cli, "up", "--data", other, "--durability", "maybe", *free)
    (tmp_path / "bad.toml").write_text("kafka_prt = 1\n")
    assert "did you mean 'kafka_port'" in fails(gridwire_cli, "up", "--config", str(tmp_path / "bad.toml"))
    assert "gridwire up" in fails(gridwire_cli, "hub", "list", "--url", "http://127.0.0.1:1")


def test_the_emulators_entity_file_makes_hubs_and_groups(start_hub: Any, gridwire_cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "Config.json"
    entity = {"Name": "eh1", "PartitionCount": "2", "ConsumerGroups": [{"Name": "cg1"}]}
    namespace = {"Type": "EventHub", "Name": "emulatorns1", "Entities": [entity]}
    file.write_text(json.dumps({"UserConfig": {"NamespaceConfig": [namespace]}}))
    for _ in range(2):  # the second time everything is there
        hub = start_hub("--entities", str(file), kafka_port="off", data=tmp_path / "data")
        assert [(row["name"], row["partitions"]) for row in hub.get("/v1/hubs")["hubs"]] == [("eh1", 2)]
        assert "cg1" in [row["group"] for row in hub.get("/v1/groups")["groups"]]
        hub.stop()
    file.write_text("{}")
    free = ("--kafka-port", "0", "--http-port", "0")
    told = fails(gridwire_cli, "up", "--data", str(tmp_path / "data"), "--entities", str(file), *free)
    assert "UserConfig" in told


@pytest.mark.skipif(CURL is None, reason="curl is needed; `make test` installs it as root")
def test_the_commands_of_the_event_hubs_page(start_hub: Any, tmp_path: Path) -> None:
    hub = start_hub(kafka_port="off")
    hub.cli("hub", "create", "eh1")
    shell = guide.Shell(tmp_path, hub.http)
    commands = guide.commands("event-hubs.md")
    assert len(commands) == 5
    for command in commands:
        command.check(shell.run(command.text))
    bounds = hub.get("/v1/hubs/eh1")["bounds"]
    assert sum(row["end"] for row in bounds) == 3
    assert "readings" in hub.cli("schema", "list").stdout


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything; runs for ordinary users"
)
def test_an_unreadable_data_directory_is_named(gridwire_cli: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    told = fails(gridwire_cli, "up", "--data", str(closed / "data"), "--kafka-port", "0", "--http-port", "0")
    assert "cannot be used" in told


def test_the_command_line_works_on_a_hub(start_hub: Any) -> None:
    hub = start_hub()
    hub.cli("hub", "create", "t", "--partitions", "2", "--retention", "12h")
    hub.cli("send", "t", '{"a":1}', "--partition", "0")
    hub.cli("send", "t", "--partition", "1", text='{"a":2}\n{"a":3}\n')
    tail = hub.cli("tail", "t", "--from", "earliest", "-n", "3", "-o", "json").stdout.splitlines()
    assert sorted(json.loads(line)["value"]["a"] for line in tail) == [1, 2, 3]
    shown = json.loads(hub.cli("hub", "show", "t", "-o", "json").stdout)
    assert shown["settings"]["retention_ms"] == 12 * 3600 * 1000
    listed = json.loads(hub.cli("hub", "list", "-o", "json").stdout)
    assert [(row["name"], row["events"]) for row in listed] == [("t", 3)]
    hub.cli("hub", "alter", "t", "--partitions", "4", "--retention", "forever")
    hub.cli("group", "reset", "g", "t", "--to", "earliest")
    assert json.loads(hub.cli("group", "show", "g", "-o", "json").stdout)["lag_events"] == 3
    assert "p99" in hub.cli("doctor", "--data", str(hub.data), check=False).stdout
    assert "0 damaged" in hub.cli("verify", "--data", str(hub.data)).stdout
    assert json.loads(hub.cli("bench", "--seconds", "0.2", "-o", "json").stdout)["events"] > 0
    hub.cli("hub", "delete", "t", "--yes")
    wrong = hub.cli("hub", "show", "t", check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


def test_verify_finds_a_flipped_bit(start_hub: Any) -> None:
    hub = start_hub()
    hub.cli("send", "t", '{"a":1}', "--partition", "0")
    hub.cli("send", "t", '{"a":2}', "--partition", "0")
    hub.stop()
    path = max(hub.data.glob("hubs/*/0/*.log"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[65] ^= 1
    path.write_bytes(content)
    done = hub.cli("verify", "--data", str(hub.data), check=False)
    assert done.returncode == 1
    assert "damaged: hub t partition 0 segment 00000000000000000000.log, position 0" in done.stdout
