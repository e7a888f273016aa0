"""Workers are started, restarted, replaced and stopped; they end with their hub."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gridwire import supervisor
from gridwire.supervisor import Supervisor

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]
QUITTER = [sys.executable, "-c", "import sys; sys.exit(7)"]


async def until(condition: object) -> None:
    for _ in range(2000):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never happened")


def test_the_running_workers_are_the_wanted_ones() -> None:
    async def scenario() -> None:
        keeper = Supervisor()
        await keeper.want({"a": ("g", SLEEPER), "b": ("g", SLEEPER)})
        await until(lambda: [w["state"] for w in keeper.describe()] == ["running", "running"])
        first = {w["name"]: w["pid"] for w in keeper.describe()}
        await keeper.want({"a": ("g", SLEEPER), "c": ("g", SLEEPER)})
        await until(lambda: all(w["state"] == "running" for w in keeper.describe()))
        now = {w["name"]: w["pid"] for w in keeper.describe()}
        assert now["a"] == first["a"]
        assert set(now) == {"a", "c"}
        await keeper.want({"a": ("g", [*SLEEPER, "changed"])})
        await until(lambda: all(w["state"] == "running" for w in keeper.describe()))
        assert keeper.describe()[0]["pid"] != first["a"]
        await keeper.stop()
        assert keeper.describe() == []

    asyncio.run(scenario())


def test_a_worker_that_dies_is_started_again_with_growing_pauses(monkeypatch: object) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.01)  # type: ignore[attr-defined]

    async def scenario() -> None:
        keeper = Supervisor()
        await keeper.want({"a": ("g", QUITTER)})
        await until(lambda: keeper.describe()[0]["restarts"] >= 3)
        await keeper.stop()

    asyncio.run(scenario())


def test_a_command_that_cannot_run_is_reported_and_tried_again(monkeypatch: object, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.01)  # type: ignore[attr-defined]

    async def scenario() -> None:
        keeper = Supervisor()
        await keeper.want({"a": ("g", [str(tmp_path / "no-such-program")])})
        await until(lambda: keeper.describe()[0]["restarts"] >= 2)
        await keeper.stop()

    asyncio.run(scenario())
