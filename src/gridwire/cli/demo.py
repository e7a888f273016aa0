"""`gridwire demo`: a hub and a utility that uses it, in one command."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gridwire import config
from gridwire.cli.output import print_fields, say
from gridwire.cli.up import event_hubs_text
from gridwire.core.errors import GridwireError

if TYPE_CHECKING:
    from gridwire.demo.storm import TruthFiles

_START_S = 30.0
_STOP_S = 40.0


@dataclass(frozen=True, slots=True)
class RunningHub:
    """A hub started as a process of its own."""

    process: subprocess.Popen[str]
    kafka: str
    amqp: str
    http: str


def demo(
    *,
    data: Path = Path("gridwire-demo"),
    seconds: float | None = None,
    pace: float = 1.0,
    kafka_port: str = "9092",
    amqp_port: str = "5672",
    http_port: str = "8700",
    broker: str = config.EMBEDDED,
) -> int:
    """Start a hub with a live demo utility: real load profiles on a real network, real meter frames, a heat wave, and a
    storm every afternoon of the grid's time, with the truth about it in DATA/truth.

    Runs until Ctrl-C and keeps its data; started again, it goes on where it was. With --seconds it ends by itself and
    says what it processed, and whether the live sums, the lake and an independent calculation agree.

    Args:
        data: where the demo's data is kept.
        seconds: end after this long.
        pace: seconds from one quarter hour to the next.
        kafka_port: port of the Kafka head; 0 picks a free one.
        amqp_port: port of the AMQP head; 0 picks a free one.
        http_port: port of the HTTP head and the page; 0 picks a free one.
        broker: kafka://host:9092,... puts the log on that cluster, whose own port then is the Kafka port.
    """
    from gridwire.demo import utility

    say("building the demo utility from SimBench's low-voltage grids ...")
    built = utility.build()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    ports = {"--kafka-port": kafka_port, "--amqp-port": amqp_port, "--http-port": http_port}
    with _hub(data, [word for pair in ports.items() for word in pair] + ["--broker", broker], stop) as hub:
        _introduce(hub, data, built)
        return _run(hub, data, built, seconds, pace, stop)


@contextmanager
def _hub(data: Path, flags: list[str], stop: threading.Event) -> Iterator[RunningHub]:
    """A hub in its own process and process group, so that Ctrl-C reaches us first and it can drain."""
    data.mkdir(parents=True, exist_ok=True)
    log_path = data / "hub.log"
    with log_path.open("ab") as log:
        process = _start(data, flags, log)
        try:
            yield _wait_ready(process, log_path)
        finally:
            stop.set()
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(data: Path, flags: list[str], log: IO[bytes]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gridwire", "up", "--data", str(data), "--lake-flush", "3", *flags]
    group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, **group)


def _wait_ready(process: subprocess.Popen[str], log_path: Path) -> RunningHub:
    if process.stdout is None:
        raise GridwireError("the hub has no output")
    timer = threading.Timer(_START_S, process.kill)
    timer.start()
    try:
        first = process.stdout.readline().strip()
        lines = [process.stdout.readline().strip() for _ in range(3)]
    finally:
        timer.cancel()
    endpoints = dict(line.split(" ", 1) for line in lines if " " in line)
    if first != "ready" or set(endpoints) != {"kafka", "amqp", "http"}:
        process.wait(_STOP_S)
        reason = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        raise GridwireError(f"the hub did not start: {reason[0] if reason else 'see ' + str(log_path)}")
    return RunningHub(process, endpoints["kafka"], endpoints["amqp"], endpoints["http"])


def _introduce(hub: RunningHub, data: Path, built: Any) -> None:
    network = built.network
    say("")
    print_fields(
        {
            "page": hub.http,
            "kafka": hub.kafka,
            "amqp": hub.amqp,
            "event hubs": event_hubs_text(hub.amqp),
            "http": f"{hub.http}/v1",
            "metrics": f"{hub.http}/metrics",
            "data": str(data),
            "durability": _durability(hub),
            "sign-in": "off (loopback only)",
            "utility": f"{len(network.usage_points)} usage points, {len(network.feeders)} feeders, "
            f"{len(network.transformers)} transformers (SimBench, ODbL 1.0)",
        }
    )
    say("\nthree things to try in another terminal:")
    say(f"  gridwire tail grid.transformers --url {hub.http}")
    say(f"  kcat -C -b {hub.kafka} -t readings -o -5 -e")
    say(
        f"  gridwire sql --data {data} "
        '"select transformer, max(load_kw) peak_kw from grid_transformers group by 1 order by 2 desc"'
    )
    say("\nthe first start compiles its kernels: live loads appear within a minute. Ctrl-C stops, data is kept.\n")


def _durability(hub: RunningHub) -> str:
    """What an acknowledgement means here, as the hub says."""
    import httpx

    told = httpx.get(f"{hub.http}/v1/status", timeout=_START_S, trust_env=False).raise_for_status().json()["durability"]
    return "fsync: an acknowledged event is on disk" if told == "fsync" else str(told)


def _run(hub: RunningHub, data: Path, built: Any, seconds: float | None, pace: float, stop: threading.Event) -> int:
    from gridwire.demo import utility
    from gridwire.demo.replay import run_replay
    from gridwire.demo.storm import Storm, TruthFiles, stormy

    watcher = threading.Thread(target=_stop_with, args=(hub.process, stop), daemon=True)
    watcher.start()
    storm = Storm(built.network, built.profiles, utility.START_INTERVAL)
    truth = run_replay(
        hub.kafka, hub.http, built.network, stormy(built.profiles, storm), pace_s=pace, seconds=seconds, stop=stop,
        report=_Reporter(TruthFiles(data / "truth", storm)), storm=storm,
    )  # fmt: skip
    if seconds is None or stop.is_set():
        if hub.process.poll() is not None:
            raise GridwireError(f"the hub ended by itself: see {data / 'hub.log'}")
        return 0
    return _agree(hub, data, truth)


def _stop_with(process: subprocess.Popen[str], stop: threading.Event) -> None:
    process.wait()
    stop.set()


class _Reporter:
    """One line now and then about what the utility did, and every interruption in the files of the truth."""

    def __init__(self, truth: TruthFiles) -> None:
        self._truth = truth
        self._next_s = 0.0
        self._terminal = sys.stdout.isatty()

    def __call__(self, progress: Any) -> None:
        self._truth.add(progress.step)
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (1.0 if self._terminal else 10.0)
        line = (
            f"grid time {progress.ts_end}  sent {progress.sent_total:,} readings, {progress.late_total:,} late; "
            f"{progress.frames_total} meter frames, {progress.quarantined_total} to quarantine"
        )
        sys.stdout.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        sys.stdout.flush()


def _agree(hub: RunningHub, data: Path, truth: Any) -> int:
    import httpx

    from gridwire.demo import agreement

    say("\nwaiting for the workers to catch up ...")
    with httpx.Client(base_url=hub.http, timeout=30, trust_env=False) as client:
        agreement.wait_until_caught_up(client)
        found = agreement.compare(client, data / "lake", truth)
    say("")
    print_fields(
        {
            "readings in the hub": found.readings,
            "sums compared": found.sums,
            "quarter hours compared": found.intervals,
            "rows in the lake": found.lake_rows,
        }
    )
    if found.differences:
        say(f"\nthey DO NOT agree:\n{agreement.differences_text(found)}")
        return 1
    say("\nlive sums, lake and the independent calculation agree")
    return 0
