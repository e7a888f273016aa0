"""Event streams: one sender a client, no queue behind it.

A stream's frames are made when the client has room for them. A client that does not read makes the sender wait, not
the memory grow; the connection's own stall timer (see `server`) ends it. A client that hangs up, or a hub that stops,
cancels the sender.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import structlog
from starlette.types import Receive, Send

from gridwire.core.errors import GridwireError, Unavailable
from gridwire.heads.http.options import HttpCounters, HttpLimits
from gridwire.heads.http.request import Headers
from gridwire.wire.http import sse
from gridwire.wire.http.problems import problem_of

RETRY_MS: Final = 2000
"""How long a browser waits before it comes back."""

DOWNLOADS_MAX: Final = 4
"""Files made at once; each takes a share of the processor, and Parquet a process."""

_HEADERS: Final = [
    (b"content-type", sse.CONTENT_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]

log = structlog.get_logger("gridwire.http")


class Streams:
    """All open streams: how many there may be, and the end of them all when the hub stops."""

    def __init__(self, limits: HttpLimits, counters: HttpCounters) -> None:
        self._limits = limits
        self._counters = counters
        self._stopping = asyncio.Event()
        self._downloads = 0

    def stop(self) -> None:
        """End every stream, and each that is opened from now on."""
        self._stopping.set()

    async def serve(self, receive: Receive, send: Send, frames: AsyncGenerator[bytes, None]) -> None:
        """Send frames until they end, the client goes, or the hub stops. Raises Unavailable when there are too many."""
        if self._counters.streams >= self._limits.streams_max:
            raise Unavailable(f"{self._limits.streams_max} event streams are open, which is the limit: close one")
        self._counters.streams += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": sse.opening(RETRY_MS), "more_body": True})
            if await self._until_over(receive, asyncio.create_task(_pump(send, frames))):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._counters.streams -= 1

    async def download(
        self, receive: Receive, send: Send, headers: Headers, parts: AsyncGenerator[bytes, None]
    ) -> None:
        """Send a file as it is made. Raises Unavailable, and what making it raises: the connection is then cut."""
        if self._downloads >= DOWNLOADS_MAX:
            raise Unavailable(f"{DOWNLOADS_MAX} exports are under way, which is the limit: try again when one is done")
        self._downloads += 1
        try:
            async with contextlib.aclosing(parts):
                first = await anext(parts, b"")  # what cannot begin is answered with its reason
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                if await self._until_over(receive, asyncio.create_task(_copy(send, parts))):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._downloads -= 1

    async def _until_over(self, receive: Receive, pump: asyncio.Task[None]) -> bool:
        """Whether there is still a client to say goodbye to. Raises what the pump raised."""
        gone = asyncio.create_task(_until_gone(receive))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((pump, gone, stop), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
            return not gone.done()
        finally:
            for task in (pump, gone, stop):
                task.cancel()
            await asyncio.gather(pump, gone, stop, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _copy(send: Send, parts: AsyncGenerator[bytes, None]) -> None:
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _pump(send: Send, frames: AsyncGenerator[bytes, None]) -> None:
    async with contextlib.aclosing(frames):
        try:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        except Exception as error:
            problem = problem_of(error)
            if not isinstance(error, GridwireError):
                log.exception("stream failed")
            await send(
                {"type": "http.response.body", "body": sse.frame(problem.body(), event="error"), "more_body": True}
            )
