"""The hub's side of its worker processes: where data lies, when there is more, commits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gridwire.broker.alert_routes import AlertRoutes
from gridwire.broker.embedded import EmbeddedBroker, Owner
from gridwire.broker.frames import ENDPOINT_FILE, FRAME_BYTES_MAX, LENGTH, Endpoint, Failure, Reply, Request, pack
from gridwire.broker.key_file import KEY_FILE
from gridwire.broker.port import Position
from gridwire.broker.reports import Reports
from gridwire.core.errors import GridwireError, OffsetOutOfRange, UnknownHub, UnknownPartition
from gridwire.log import disk

log = structlog.get_logger("gridwire.local")

_HELLO_TIMEOUT_S = 10.0
_WAIT_S_MAX = 60.0


class LocalServer:
    """Serves worker processes of this machine.

    Args:
        broker: None where the log is a cluster's: workers then only tell how they are. directory: of the hub then.
    """

    def __init__(self, broker: EmbeddedBroker | None, directory: Path | None = None) -> None:
        self._broker = broker
        self._directory = broker.directory if broker is not None else Path(directory or ".")
        self._secret = secrets.token_hex(32)
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self.reports: dict[str, dict[str, int]] = {}
        """What workers count, by group, as last told."""
        self.apps = Reports(time.monotonic)
        """What hosts of functions tell of themselves."""

    async def start(self) -> None:
        """Listen on a free loopback port and leave word in the data directory."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        path = self._directory / ENDPOINT_FILE
        path.parent.mkdir(exist_ok=True)
        disk.write_atomic(path, msgspec.json.encode(Endpoint(port, self._secret, os.getpid())), sync=False)

    async def stop(self) -> None:
        """Hang up."""
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.cancel()
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=5)
        (self._directory / ENDPOINT_FILE).unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: _Reporting = (
            _Reporting(self.reports, self.apps)
            if self._broker is None
            else _Session(self._broker, self.reports, self.apps)
        )
        try:
            hello = await asyncio.wait_for(_read(reader), _HELLO_TIMEOUT_S)
            known = hello.operation == "hello" and secrets.compare_digest(
                str(hello.arguments.get("secret")), self._secret
            )
            if not known:
                return
            durability = "" if self._broker is None else self._broker.durability
            writer.write(pack(Reply(hello.id, None, {"durability": durability})))
            while True:
                request = await _read(reader)
                writer.write(pack(await session.answer(request)))
                await writer.drain()
        except (
            asyncio.IncompleteReadError,
            ConnectionError,
            TimeoutError,
            msgspec.MsgspecError,
            asyncio.CancelledError,
        ):
            pass
        finally:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request:
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if size > FRAME_BYTES_MAX:
        raise ConnectionError("frame too large")
    return msgspec.msgpack.decode(await reader.readexactly(size), type=Request)


class _Reporting:
    """One worker's requests, one at a time, as far as they need no broker."""

    def __init__(self, reports: dict[str, dict[str, int]], apps: Reports) -> None:
        self._reports = reports
        self._apps = apps

    async def answer(self, request: Request) -> Reply:
        operation = getattr(self, f"_do_{request.operation}", None)
        if operation is None:
            return Reply(request.id, Failure("Unsupported", f"unknown operation {request.operation!r}"))
        try:
            return Reply(request.id, None, await operation(**request.arguments))
        except GridwireError as error:
            return Reply(request.id, Failure(type(error).__name__, str(error)))
        except (TypeError, ValueError, LookupError) as error:
            log.exception("worker request failed", operation=request.operation)
            return Reply(request.id, Failure("LocalProtocolError", f"{request.operation}: {error}"))

    async def _do_report(self, group: str, counters: dict[str, int]) -> None:
        self._reports[group] = counters

    async def _do_report_app(self, told: dict[str, Any]) -> None:
        self._apps.take(told)


class _Session(_Reporting):
    """Those of a worker that reads and commits here."""

    def __init__(self, broker: EmbeddedBroker, reports: dict[str, dict[str, int]], apps: Reports) -> None:
        super().__init__(reports, apps)
        self._broker = broker

    async def _do_claim(self, group: str) -> dict[str, int]:
        owner = await self._broker.claim(group)
        return {"producer_id": owner.producer_id, "epoch": owner.epoch}

    async def _do_describe(self, group: str, hubs: list[str]) -> dict[str, Any]:
        """Partitions, bounds and committed positions of the hubs that exist."""
        committed = await self._broker.positions(group)
        found: dict[str, Any] = {}
        for name in hubs:
            with contextlib.suppress(UnknownHub):
                info = self._broker.hub(name)
                rows = []
                for number in range(info.partitions):
                    bounds = await self._broker.bounds(name, number)
                    position = committed.get((name, number))
                    known = (-1, "") if position is None else (position.offset, position.metadata)
                    rows.append((bounds.start, bounds.end, *known))
                found[name] = {"id": str(info.id), "partitions": rows}
        return {"generation": self._broker.generation, "hubs": found}

    async def _do_poll(
        self, places: list[tuple[str, int, int]], bytes_max: int, timeout_s: float, generation: int
    ) -> dict[str, Any]:
        """Wait until there is something, then say where it lies."""
        if generation != self._broker.generation:
            return {"generation": self._broker.generation, "places": []}
        positions = {(hub, number): offset for hub, number, offset in places}
        if positions:
            await self._broker.wait(positions, min(timeout_s, _WAIT_S_MAX), committed=True)
        else:
            await asyncio.sleep(min(timeout_s, 0.2))
        rows: list[tuple[Any, ...]] = []
        share = max(1024 * 1024, bytes_max // max(1, len(places)))
        for (hub, number), offset in positions.items():
            try:
                bounds = await self._broker.bounds(hub, number)
                if not bounds.start <= offset <= bounds.end:
                    rows.append((hub, number, bounds.start, bounds.end, None))
                elif bounds.stable > offset:
                    spans = self._broker.spans(hub, number, offset, share)
                    where = [(span.path, span.base_offset, span.start, span.end) for span in spans]
                    rows.append((hub, number, bounds.start, bounds.stable, where))
            except (UnknownHub, UnknownPartition, OffsetOutOfRange):
                continue
        return {"generation": self._broker.generation, "places": rows}

    async def _do_offsets_at(
        self, places: list[tuple[str, int]], timestamp_ms: int | None
    ) -> list[tuple[str, int, int]]:
        """Where events of that time or later begin; the end where there are none, the start when no time is given."""
        found = []
        for hub, number in places:
            with contextlib.suppress(UnknownHub, UnknownPartition):
                bounds = await self._broker.bounds(hub, number)
                first = None if timestamp_ms is None else await self._broker.offset_at(hub, number, timestamp_ms)
                offset = bounds.start if timestamp_ms is None else bounds.end if first is None else first[0]
                found.append((hub, number, offset))
        return found

    async def _do_commit(
        self,
        group: str,
        producer_id: int,
        epoch: int,
        positions: list[tuple[str, int, int]],
        outputs: list[tuple[str, int, bytes]],
        note: str = "",
    ) -> None:
        await self._broker.commit_outputs(
            group,
            Owner(producer_id, epoch),
            {(hub, number): Position(offset, note) for hub, number, offset in positions},
            [((hub, number), batch) for hub, number, batch in outputs],
        )

    async def _do_create(self, hub: str, partitions: int | None) -> None:
        await self._broker.create_hub(hub, partitions)

    @property
    def _routes(self) -> AlertRoutes:
        return AlertRoutes(self._broker, self._broker.clock, self._broker.directory / KEY_FILE)

    async def _do_routes(self) -> dict[str, Any]:
        return {
            name: msgspec.to_builtins(record, builtin_types=(bytes,)) for name, record in self._routes.all().items()
        }

    async def _do_stop_route(self, name: str, id: str, reason: str) -> None:
        await self._routes.stop(name, id, reason)

    async def _do_forget_route(self, name: str, id: str) -> None:
        await self._routes.forget(name, id)
