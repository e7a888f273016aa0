"""Events given to one function of an app, in its own environment: `python -m gridwire.functions.trial DIRECTORY`.

Standard input is a `Trial`, standard output an `Outcome`, both JSON. Nothing is published.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from gridwire.core.errors import GridwireError


class Trial(msgspec.Struct, frozen=True):
    """What to call, with which events (Base64 in JSON). `key`: of each."""

    function: str
    events: list[bytes]
    key: bytes | None = None


class Handed(msgspec.Struct, frozen=True):
    """An event that the function handed out."""

    hub: str
    value: bytes
    key: bytes | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of it. `refused`: why the function was not called at all."""

    done: int = 0
    took_ms: float = 0.0
    outputs: list[Handed] = []
    rejected: list[tuple[int, str]] = []
    error: str = ""
    traceback: str = ""
    refused: str = ""


def outcome(directory: Path, trial: Trial) -> Outcome:
    """Call the function in a worker process of its own."""
    from gridwire.functions.saved import invoke

    try:
        result = invoke(directory, trial.function, trial.events, trial.key)
    except GridwireError as error:
        return Outcome(refused=str(error))
    outputs = [
        Handed(published.hub, value, key)
        for published in result.published
        for value, key in zip(published.values, published.keys or [None] * len(published.values), strict=True)
    ]
    took_ms = result.took_us / 1000
    return Outcome(result.done, took_ms, outputs, result.rejected, result.error, result.traceback)


def main() -> None:
    """See the module."""
    told_at = os.dup(1)
    os.dup2(2, 1)
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    with os.fdopen(told_at, "wb") as out:
        out.write(msgspec.json.encode(outcome(Path(sys.argv[1]), trial)))


if __name__ == "__main__":
    main()
