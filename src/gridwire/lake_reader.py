"""A process that reads the lake for the hub, which itself imports neither DuckDB nor pyarrow.

It is started by the first question and ends when nobody has asked for a while, takes too long, or the hub ends: its
standard input is a pipe to the hub.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gridwire.core.errors import Unavailable, UnknownHub
from gridwire.core.limits import MIB

WAIT_S: Final = 30.0
"""For one answer, the start of the process with it."""

IDLE_S: Final = 120.0
WAITING_MAX: Final = 32
"""Questions waiting for their turn; more are refused at once."""

ANSWER_BYTES_MAX: Final = 64 * MIB


class LakeReader:
    """Asks one question after the other. argv: what answers them."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer.

        Raises:
            UnknownHub: it is about what is not in the lake. Unavailable: too many ask, or it takes too long.
        """
        if self._waiting >= WAITING_MAX:
            raise Unavailable("the lake is being asked too much: try again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                told = await self._ask(msgspec.json.encode(question) + b"\n")
        finally:
            self._waiting -= 1
        if "missing" in told:
            raise UnknownHub(told["missing"])
        if "failed" in told:
            raise Unavailable(told["failed"])
        answer: dict[str, Any] = told["answer"]
        return answer

    async def stop(self) -> None:
        """End the process, if there is one."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, line: bytes) -> Any:
        if self._idle is not None:
            self._idle.cancel()
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(WAIT_S):
                process.stdin.write(line)
                await process.stdin.drain()
                told = msgspec.json.decode(await process.stdout.readline())
        except (TimeoutError, OSError, ValueError, msgspec.DecodeError):
            await self.stop()
            raise Unavailable("the lake did not answer: ask for a shorter time, or look at the hub's log") from None
        except asyncio.CancelledError:  # whoever asked is gone; the answer that is still to come is nobody's
            await self.stop()
            raise
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end)
        return told

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=ANSWER_BYTES_MAX,
            )
        return self._process

    def _end(self) -> None:
        """Nobody asked for a while: with its input at its end it ends."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
