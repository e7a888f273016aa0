"""What the benchmarks share: contenders in turn, spreads and ratios, the machine, and a hub as a process of its own.

A benchmark prints its table, then as its last line one JSON object with `bench`, `machine`, `commit` and the figures.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 60.0
STOP_S = 30.0


# -- figures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and largest of the rounds."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError when there is nothing to spread."""
        if not values:
            raise ValueError("no values")
        return cls(min(values), statistics.median(values), max(values))

    def fields(self, digits: int = 3) -> dict[str, float]:
        """For the JSON line."""
        return {"min": round(self.min, digits), "median": round(self.median, digits), "max": round(self.max, digits)}


def pairwise(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios within each round: what else the machine did in that round hits both sides.

    Raises:
        ValueError: the two did not take part in the same rounds.
    """
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def row(
    what: str, ours: Sequence[float], peer: str, theirs: Sequence[float] | str, **goals: float | None
) -> dict[str, Any]:
    """One row of the table of `run.py`: ours beside a peer's of the same rounds.

    Args:
        theirs: the peer's figures, or why there are none.
        goals: `goal_least`, `goal_most` (ours), `goal_ratio`, `goal_ratio_most` (ours to theirs).
    """
    told: dict[str, Any] = {"what": what, "ours": Spread.of(ours).fields(), "peer": peer, **goals}
    if isinstance(theirs, str):
        return told | {"skipped": theirs}
    ratio = Spread.of(pairwise(ours, theirs))
    return told | {"theirs": Spread.of(theirs).fields(), "ratio": ratio.fields()}


def no_row(what: str, reason: str) -> dict[str, Any]:
    """The row of what cannot be measured here at all."""
    return {"what": what, "peer": "", "skipped": reason}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def interleave(
    contenders: Mapping[str, Callable[[], T]], rounds: int, before: Callable[[], None] | None = None
) -> dict[str, list[T]]:
    """Let everybody run once a round; each round starts with another one, so that no place in the order is anybody's.

    Args:
        before: called before each run, outside of what it measures.
    """
    names = list(contenders)
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            if before is not None:
                before()
            found[name].append(contenders[name]())
    return found


def short(value: float) -> str:
    """A figure as people say it: 1.24 M, 812 k, 0.43."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.2f} M"
    if size >= 1e4:
        return f"{value / 1e3:.0f} k"
    if size >= 1e3:
        return f"{value / 1e3:.1f} k"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def spread_text(spread: Spread) -> str:
    """`median (min to max)`."""
    return f"{short(spread.median)} ({short(spread.min)} to {short(spread.max)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned for a terminal: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for documents."""
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


# -- the machine --------------------------------------------------------------------------------------------------


def machine() -> str:
    """Processor, cores, system, Python."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def commit_id() -> str:
    """Short commit, with + when the tree has changes that are not committed."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError):
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return "unknown"


def load_average() -> float:
    """How many processes wanted a core over the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def touch_memory(gigabytes: float) -> None:
    """Make the machine hand out its memory before the clock runs: first touch of a page may be many times slower."""
    block = bytearray(b"\x01") * (1 << 28)
    held = [bytes(block) for _ in range(max(0, round(gigabytes * 4) - 1))]
    del block, held


def settle(gigabytes: float = 0.5) -> None:
    """Before each run: write out what earlier contenders left unsynced, and touch memory again, which a virtual machine
    gives back after seconds of idling. Nobody pays for another one's leftovers."""
    if hasattr(os, "sync"):
        os.sync()
    touch_memory(gigabytes)


def heading(bench: str, **more: Any) -> dict[str, Any]:
    """Print where and what is measured; returns the same as the beginning of the JSON line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception stops the servers; the signal would not
    about = {"bench": bench, "machine": machine(), "commit": commit_id(), "load": round(load_average(), 1), **more}
    print("  ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    return about


def print_result(result: Mapping[str, Any]) -> None:
    """The last line of a benchmark."""
    print(json.dumps(result), flush=True)


def free_port() -> int:
    """A loopback port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def scratch(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"gridwire-{prefix}-", dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path)


# -- servers ------------------------------------------------------------------------------------------------------


class Server:
    """A process that was started here, and what it uses."""

    process: subprocess.Popen[Any]

    @property
    def cpu_s(self) -> float:
        """Processor seconds so far, user and system, all threads."""
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def memory_bytes(self) -> int:
        """Memory in RAM now."""
        import psutil

        return int(psutil.Process(self.process.pid).memory_info().rss)

    def await_word(self, word: str, log: Path, name: str, unavailable: type[Exception]) -> None:
        """Wait until its log has the word. Raises `unavailable`; the process is stopped then."""
        deadline_s = time.perf_counter() + START_S
        try:
            while word not in log.read_text(errors="replace"):
                if self.process.poll() is not None:
                    raise unavailable(f"{name} ended: {log.read_text(errors='replace')[-300:]}")
                if time.perf_counter() > deadline_s:
                    raise unavailable(f"{name} was not ready within {START_S:.0f} s")
                time.sleep(0.01)
        except BaseException:
            self.stop()
            raise

    def serve(self, about: str) -> None:
        """What a peer's own program does: say where it is, and end it on Ctrl-C."""
        print(about, flush=True)
        try:
            self.process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        """End it, and only it: SIGTERM, then SIGKILL if it does not listen."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Hub(Server):
    """`gridwire up` on free loopback ports: addresses `kafka`, `http` and `amqp`; `start_s`: the time until `ready`.

    Args:
        amqp_port: `0` turns that head on.

    Raises:
        RuntimeError: it did not get ready; the message ends with what it logged.
    """

    def __init__(self, directory: Path, *flags: str, amqp_port: str = "off") -> None:
        command = [sys.executable, "-m", "gridwire", "up", "--data", str(directory / "data"), "--amqp-port", amqp_port]
        command += ["--kafka-port", "0", "--http-port", "0", *flags]
        log = directory / "hub.log"
        begun_s = time.perf_counter()
        with log.open("ab") as errors:  # cwd: a gridwire.toml of the caller must not be read
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=directory)
        assert self.process.stdout is not None
        try:
            if self.process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"the hub did not start: {log.read_text()[-2000:]}")
            self.start_s = time.perf_counter() - begun_s
            addresses: dict[str, str] = {}
            while "http" not in addresses:
                addresses.update([self.process.stdout.readline().split()])
        except BaseException:
            self.stop()
            raise
        self.kafka, self.http, self.amqp = addresses["kafka"], addresses["http"], addresses.get("amqp", "")

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the HTTP API with JSON both ways."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.http + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None
