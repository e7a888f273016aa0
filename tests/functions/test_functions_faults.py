"""Hosts and workers are killed at every step; what functions hand out is there exactly once, and nothing stalls.

Negative control: with outputs committed before the position instead of with it, the same kills leave duplicates.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

STEPS = (("opened", 1), ("polled", 1), ("given", 3), ("done", 2), ("committing", 1), ("committed", 1))
EVENTS = 300

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many",
                               max_batch_size=7)
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    return [event.get_body() for event in events]
"""

HOST = """
import asyncio, os, signal, sys
from functools import partial
from pathlib import Path
from gridwire.broker.local import LocalSource
from gridwire.functions.host import Host, HostOptions

data, app, state, step, count, weak = sys.argv[1:]
left = int(count)

def after(name):
    global left
    if name == step:
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Weak(LocalSource):
    def commit(self, positions, outputs=(), note=""):
        super().commit({}, outputs)
        after("between")
        super().commit(positions)

async def main(host):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await host.serve(stop, lambda host: print("ready", flush=True))

host = Host("app", Path(app), partial(Weak if weak == "weak" else LocalSource, Path(data)),
            HostOptions(Path(state), port=0, workers_max=2), after=after)
host.learn()
asyncio.run(main(host))
"""


@pytest.fixture
def run_host(hub, write_app, tmp_path):
    """Start a host that kills itself when it has come to a step so many times."""
    directory = write_app(APP)
    running = []

    def run(step="never", count=1, weak="strong"):
        arguments = [str(hub.directory), str(directory), str(tmp_path / "state"), step, str(count), weak]
        process = subprocess.Popen(
            [sys.executable, "-c", HOST, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def fill(hub, first=0, last=EVENTS):
    if first == 0:
        hub.create("in", 2)
        hub.create("out", 2)
    for number in range(first, last, 10):
        hub.append("in", number // 10 % 2, *(b"%d" % n for n in range(number, number + 10)))


def done(hub):
    return hub.position("fn.app.f", "in") == EVENTS


def out(hub):
    return sorted(int(event.value) for event in hub.events("out"))


def test_a_host_killed_at_every_step_has_effects_once(hub, run_host, until):
    share = EVENTS // len(STEPS)
    for number, (step, count) in enumerate(STEPS):
        fill(hub, number * share, (number + 1) * share)
        process = run_host(step, count)
        until(lambda process=process: process.poll() is not None, step)
        assert process.returncode == -signal.SIGKILL
    run_host()
    until(lambda: done(hub))
    assert out(hub) == list(range(EVENTS))


def test_negative_control_outputs_before_positions_come_twice(hub, run_host, until):
    fill(hub)
    process = run_host("between", 2, "weak")
    until(lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGKILL
    run_host("never", 1, "weak")
    until(lambda: done(hub))
    assert len(out(hub)) > EVENTS
    assert sorted(set(out(hub))) == list(range(EVENTS))


def test_workers_killed_at_any_moment_cost_nothing(hub, run_app, until):
    fill(hub)
    app = run_app(APP.replace("return [", "import time; time.sleep(0.02); return ["))
    chance = random.Random(7)
    seen, kills = -1, 0
    while not done(hub):
        events = app.host.figures()["f"].get("events", 0)
        if (
            events > seen and kills < 8
        ):  # only after progress: else a slow machine would never get to the end of a batch
            seen = events
            kills += 1
            time.sleep(chance.uniform(0.0, 0.05))
            for pid in app.host.pool.pids()[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.01)
    letters = [int(event.value) for event in hub.events("dlq.app.f")]
    assert sorted([*out(hub), *letters]) == list(range(EVENTS)), "each event is in the output or a dead letter, once"
    assert app.host.pool.deaths > 0
    assert not letters, "workers that die from outside make no dead letters of good events"


def test_a_hub_that_restarts_is_waited_for(hub, run_app, until):
    hub.create("in", 1)
    run_app(APP)
    hub.append("in", 0, b"1")
    until(lambda: out(hub) == [1])
    hub.close()
    hub.start()
    hub.append("in", 0, b"2")
    until(lambda: out(hub) == [1, 2])


def test_no_worker_outlives_its_host_even_while_it_hangs(hub, run_host, until, tmp_path):
    hub.create("in", 1)
    hub.create("out", 1)
    note = tmp_path / "pid"
    hang = f"pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n    while True: pass\n"
    code = f"import os, pathlib; {hang}    return ["
    (tmp_path / "app" / "function_app.py").write_text(APP.replace("return [", code))
    process = run_host()
    hub.append("in", 0, b"x")
    until(lambda: note.exists() and note.read_text())
    process.kill()
    process.wait(60)
    until(lambda: not psutil.pid_exists(int(note.read_text())), "the worker is still there")
