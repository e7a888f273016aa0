"""Bytes through a process that makes them a file of another kind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from typing import Final

from gridwire.core.errors import GridwireError

PARQUET: Final = (sys.executable, "-m", "gridwire.columnar.parquet")
CHUNK_BYTES: Final = 64 * 1024


async def through(command: tuple[str, ...], parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What a process makes of `parts`; it is killed when nobody reads on.

    Raises:
        GridwireError, and what `parts` raises.
    """
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    feeding = asyncio.create_task(_feed(process, parts))
    try:
        assert process.stdout is not None
        while chunk := await process.stdout.read(CHUNK_BYTES):
            yield chunk
        await feeding
        if await process.wait() != 0:
            raise GridwireError("the file could not be made: see what the hub printed")
    finally:
        feeding.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.gather(feeding, process.wait(), return_exceptions=True)


async def _feed(process: Process, parts: AsyncGenerator[bytes, None]) -> None:
    """Write `parts` to a process. One that gave up says so by its exit code; what `parts` raises ends it."""
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            async with contextlib.aclosing(parts):
                async for part in parts:
                    process.stdin.write(part)
                    await process.stdin.drain()
            process.stdin.close()
    except Exception:
        process.kill()
        raise
