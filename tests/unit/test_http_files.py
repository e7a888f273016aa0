"""Bytes through a process: what it makes, and its end whatever happens."""

import asyncio
import os
import sys

import pytest

from gridwire.core.errors import Corruption, GridwireError
from gridwire.heads.http.files import through

PID_FIRST = "import os, sys; print(os.getpid(), flush=True); "


async def endless():
    while True:
        yield b"x" * 100_000


async def broken():
    yield b"x"
    raise Corruption("damaged", hub="r", partition=0)


def command(script):
    return (sys.executable, "-c", script)


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_nobody_who_left_keeps_a_process():
    async def leave():
        made = through(command(PID_FIRST + "sys.stdin.buffer.read()"), endless())
        pid = int(await anext(made))
        await made.aclose()
        return pid

    assert is_gone(asyncio.run(leave()))


@pytest.mark.parametrize(
    ("script", "parts", "error"),
    [
        ("import sys; sys.exit(3)", endless, GridwireError),
        ("import sys; sys.stdin.buffer.read()", broken, Corruption),
    ],
)
def test_a_file_that_cannot_be_made_is_an_error(script, parts, error):
    async def take():
        return [part async for part in through(command(PID_FIRST + script), parts())]

    with pytest.raises(error):
        asyncio.run(take())
