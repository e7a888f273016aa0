"""What a meter format is: a function from a stream of bytes to decoded frames and bad frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gridwire.grid.reading import Reading

CHUNK_BYTES: Final = 64 * 1024
"""How much of a file a decoder sees at once; with the frame limits this bounds its memory."""

BAD_FRAME_BYTES_MAX: Final = 64 * 1024
"""Longest stretch of bytes one bad frame holds; longer rubbish comes in several pieces."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a decoder may need to know beyond the bytes.

    Args:
        source: file name or feed, kept with every reading.
        meter: id to use when a frame names no meter.
        received_at_us: time to use when a frame has no clock, microseconds since the epoch; None: there is none.
        zone: IANA zone of clocks that send local time without an offset.
    """

    source: str = ""
    meter: str = ""
    received_at_us: int | None = None
    zone: str = "Europe/Oslo"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A good frame. `position`: its first byte in the stream. `verbatim`: the event to send as it is, if it is one."""

    readings: tuple[Reading, ...]
    position: int
    verbatim: bytes = b""


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Bytes that are no usable frame, and why. `position`: the first of them in the stream."""

    raw: bytes
    reason: str
    position: int


Item = Decoded | BadFrame
"""What decoders yield."""


@dataclass(frozen=True, slots=True)
class Format:
    """A named format. `globs`: names its files usually have."""

    name: str
    help: str
    globs: tuple[str, ...]
    stream: Callable[[Iterable[bytes], Context], Iterator[Item]]
    """Decode a stream of chunks cut anywhere; memory stays bounded."""

    def decode(self, data: bytes, source: str = "", context: Context | None = None) -> Iterator[Item]:
        """Decode bytes that are all there."""
        pieces = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
        return self.stream(pieces, context if context is not None else Context(source=source))


def bad_pieces(raw: bytes, reason: str, position: int) -> Iterator[BadFrame]:
    """Rubbish as bad frames of bounded size."""
    for start in range(0, len(raw), BAD_FRAME_BYTES_MAX):
        yield BadFrame(raw[start : start + BAD_FRAME_BYTES_MAX], reason, position + start)
