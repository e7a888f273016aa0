"""The unmodified Python SDK's load-balanced consumers, blocking and asyncio, with the hub as their checkpoint store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubProducerClient

DEADLINE_S = 60.0
EVENTS = 40
KILLED_AFTER = 20
OPTIONS = """
import asyncio, sys

def say(*words):
    print(*words, flush=True)

options = {"load_balancing_interval": 0.3, "partition_ownership_expiration_interval": 3,
           "load_balancing_strategy": "greedy", "eventhub_name": sys.argv[3]}
"""
BLOCKING = f"""{OPTIONS}
from azure.eventhub import EventHubConsumerClient
from gridwire.azure import HubCheckpointStore

def on_event(context, event):
    say("event", event.body_as_str())
    context.update_checkpoint(event)

client = EventHubConsumerClient.from_connection_string(
    sys.argv[1], "$Default", checkpoint_store=HubCheckpointStore(sys.argv[2]), **options)
client.receive(on_event=on_event, starting_position="-1", on_error=lambda *_: None,
               on_partition_initialize=lambda context: say("has", context.partition_id))
"""
ASYNCIO = f"""{OPTIONS}
from azure.eventhub.aio import EventHubConsumerClient
from gridwire.azure.aio import HubCheckpointStore

async def on_event(context, event):
    say("event", event.body_as_str())
    await context.update_checkpoint(event)

async def on_error(*_):
    pass

async def on_partition(context):
    say("has", context.partition_id)

async def main():
    client = EventHubConsumerClient.from_connection_string(
        sys.argv[1], "$Default", checkpoint_store=HubCheckpointStore(sys.argv[2]), **options)
    await client.receive(on_event=on_event, starting_position="-1", on_error=on_error,
                         on_partition_initialize=on_partition)

asyncio.run(main())
"""
KINDS = {"blocking": (BLOCKING, BLOCKING), "asyncio": (ASYNCIO, ASYNCIO), "mixed": (ASYNCIO, BLOCKING)}


class Processor:
    """A consumer in a process of its own: what it was given and what it has seen."""

    def __init__(self, program: str, connection_string: str, url: str, hub: str) -> None:
        command = [sys.executable, "-c", program, connection_string, url, hub]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.partitions: set[str] = set()
        self.seen: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, _, word = line.strip().partition(" ")
            if kind == "has":
                self.partitions.add(word)
            else:
                self.seen.append(word)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Any, what: str) -> None:
    never = threading.Event()
    for _ in range(int(DEADLINE_S / 0.05)):
        if condition():
            return
        never.wait(0.05)
    pytest.fail(f"did not happen in time: {what}")


def one_is_killed(hub: Any, text: str, name: str) -> None:
    """Two processors share a hub; the first is killed in the middle."""
    first, second = KINDS[name]
    started = [Processor(first, text, hub.http, name)]
    try:
        until(lambda: len(started[0].partitions) == 4, "the first has all")
        started.append(Processor(second, text, hub.http, name))
        until(lambda: len(started[1].partitions) >= 2, "they share")
        with EventHubProducerClient.from_connection_string(text, eventhub_name=name) as client:
            for number in range(EVENTS):
                if number == KILLED_AFTER:
                    started[0].kill()
                client.send_event(EventData(str(number)), partition_id=str(number % 4))
        expected = {str(number) for number in range(EVENTS)}
        until(lambda: set(started[0].seen) | set(started[1].seen) == expected, "every event is seen")
        assert started[1].partitions == {"0", "1", "2", "3"}
        rows = f"/v1/groups/$Default/positions?hub={name}"
        until(
            lambda: sum(row["position"] for row in hub.get(rows)["positions"]) == EVENTS, "every event is checkpointed"
        )
        assert f'"{name}"' in hub.cli("group", "show", "$Default", "-o", "json").stdout
    finally:
        for each in started:
            each.kill()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_processor_is_taken_over_from_and_nothing_is_lost(start_hub: Any) -> None:
    """Blocking, asyncio and one of each, at the same time: nearly all of it is waiting."""
    hub = start_hub("--no-workers")
    text = hub.process.stdout.readline().strip().partition(" ")[2]
    for name in KINDS:
        hub.cli("hub", "create", name, "--partitions", "4")
    with ThreadPoolExecutor(len(KINDS)) as pool:
        outcomes = [pool.submit(one_is_killed, hub, text, name) for name in KINDS]
    for outcome in outcomes:
        outcome.result()
