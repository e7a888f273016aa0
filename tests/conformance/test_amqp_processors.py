"""The unmodified Python SDK's load-balanced consumers with the hub as their checkpoint store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubProducerClient

DEADLINE_S = 60.0
PROCESSOR = """
import sys
from azure.eventhub import EventHubConsumerClient
from gridwire.azure import HubCheckpointStore

def say(*words):
    print(*words, flush=True)

def on_event(context, event):
    say("event", event.body_as_str())
    context.update_checkpoint(event)

client = EventHubConsumerClient.from_connection_string(
    sys.argv[1], "$Default", eventhub_name="h", checkpoint_store=HubCheckpointStore(sys.argv[2]),
    load_balancing_interval=0.3, partition_ownership_expiration_interval=3, load_balancing_strategy="greedy",
)
client.receive(on_event=on_event, starting_position="-1", on_error=lambda *_: None,
               on_partition_initialize=lambda context: say("has", context.partition_id))
"""


class Processor:
    """A consumer in a process of its own: what it was given and what it has seen."""

    def __init__(self, connection_string: str, url: str) -> None:
        command = [sys.executable, "-c", PROCESSOR, connection_string, url]
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


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_processor_is_taken_over_from_and_nothing_is_lost(start_hub: Any, tmp_path: Path) -> None:
    hub = start_hub("--no-workers")
    hub.cli("hub", "create", "h", "--partitions", "4")
    text = hub.process.stdout.readline().strip().partition(" ")[2]
    started = [Processor(text, hub.http)]
    try:
        until(lambda: len(started[0].partitions) == 4, "the first has all")
        started.append(Processor(text, hub.http))
        until(lambda: len(started[1].partitions) >= 2, "they share")
        with EventHubProducerClient.from_connection_string(text, eventhub_name="h") as client:
            for number in range(40):
                if number == 20:
                    started[0].kill()
                client.send_event(EventData(str(number)), partition_id=str(number % 4))
        expected = {str(number) for number in range(40)}
        until(lambda: set(started[0].seen) | set(started[1].seen) == expected, "every event is seen")
        assert started[1].partitions == {"0", "1", "2", "3"}
        rows = "/v1/groups/$Default/positions?hub=h"
        until(lambda: sum(row["position"] for row in hub.get(rows)["positions"]) == 40, "every event is checkpointed")
        assert '"h"' in hub.cli("group", "show", "$Default", "-o", "json").stdout
    finally:
        for each in started:
            each.kill()
