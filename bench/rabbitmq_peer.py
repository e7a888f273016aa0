"""The peer: RabbitMQ with AMQP 1.0, one node, from Debian's packages.

    python bench/rabbitmq_peer.py

fetches it, starts it, prints its address and stops it on Ctrl-C. The packages are unpacked into `.rabbitmq/` beside the
sources (git-ignored), which needs no rights and installs no service; only the first run needs a network.

Everything is RabbitMQ's default but addresses, directories and the plugin `rabbitmq_amqp1_0`, which version 3 needs and
version 4 has built in. Whoever connects without SASL is its default user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from support import STOP_S, Server, free_port, scratch

CACHE: Final = Path(__file__).resolve().parent.parent / ".rabbitmq"
PACKAGES_S: Final = 300.0
STARTED: Final = "Server startup complete"
_APT: Final = ("--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances")


class RabbitUnavailable(Exception):
    """It cannot be fetched or started here; the text says why."""


def fetch(cache: Path = CACHE) -> Path:
    """The directory its packages are unpacked in, fetched on first use. Raises RabbitUnavailable."""
    root = cache / "root"
    if not root.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise RabbitUnavailable("it comes from Debian's packages, and this is no Debian")
        unfinished = cache / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        depends = _run(["apt-cache", "depends", "--recurse", *_APT, "rabbitmq-server"], unfinished)
        needed = {name for name in depends.split() if name.startswith("erlang-")}
        _run(["apt-get", "download", "rabbitmq-server", *sorted(needed)], unfinished)
        for package in sorted(unfinished.glob("*.deb")):
            _run(["dpkg", "-x", package.name, "root"], unfinished)
        start = unfinished / "root" / "usr" / "lib" / "erlang" / "bin" / "erl"  # it expects to be at its own place
        start.write_text(start.read_text().replace("ROOTDIR=/usr/lib/erlang", 'ROOTDIR="$ERL_ROOTDIR"'))
        (unfinished / "root").rename(root)
        shutil.rmtree(unfinished)
    return root


def _run(command: list[str], directory: Path) -> str:
    try:
        told = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=PACKAGES_S, check=False
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise RabbitUnavailable(f"{command[0]}: {error}") from None
    if told.returncode:
        raise RabbitUnavailable(f"{command[0]} {command[1]}: {told.stderr.strip()[-200:]}")
    return told.stdout


class Rabbit(Server):
    """One node on free loopback ports; `amqp` is its address, `version` what it is.

    Its port mapper is a process of our own too: left alone, the node would start one that outlives it.

    Raises:
        RabbitUnavailable: it cannot be fetched or does not start.
    """

    def __init__(self, directory: Path) -> None:
        root = fetch()
        home = next(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"), None)
        erlang = root / "usr" / "lib" / "erlang"
        epmd = next(erlang.glob("erts-*/bin/epmd"), None)
        if home is None or epmd is None:
            raise RabbitUnavailable(f"the packages in {CACHE.name} are not whole")
        self.version = home.name.rpartition("-")[2]
        port = free_port()
        self.amqp = f"127.0.0.1:{port}"
        environment = self._environment(directory, erlang, port)
        self._log = directory / "rabbitmq.log"
        with self._log.open("ab") as log:
            self._mapper = subprocess.Popen(
                [epmd, "-port", environment["ERL_EPMD_PORT"]], env=environment, stdout=log, stderr=log
            )
            self.process = subprocess.Popen(
                [home / "sbin" / "rabbitmq-server"],
                env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory,
            )  # fmt: skip
        self.await_word(STARTED, self._log, "RabbitMQ", RabbitUnavailable)

    def _environment(self, directory: Path, erlang: Path, port: int) -> dict[str, str]:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "plugins").write_text("[rabbitmq_amqp1_0].\n")
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = true\nlog.file = false\n"
        )
        return os.environ | {
            "HOME": str(directory),
            "PATH": f"{erlang / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "ERL_ROOTDIR": str(erlang),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "bench@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        }

    def stop(self) -> None:
        """End the node and its port mapper."""
        super().stop()
        self._mapper.terminate()
        self._mapper.wait(STOP_S)


def main() -> None:
    with scratch("rabbitmq") as directory:
        peer = Rabbit(directory)
        peer.serve(f"RabbitMQ {peer.version} at {peer.amqp}")


if __name__ == "__main__":
    main()
