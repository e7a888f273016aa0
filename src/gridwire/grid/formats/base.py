"""What a meter format is: a function from a stream of bytes to decoded frames and bad frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gridwire.grid.formats.keys import Keys
from gridwire.grid.meter_event import MeterEvent
from gridwire.grid.reading import Reading
from gridwire.grid.weather import Observation

NO_KEYS: Final = Keys()
"""Nothing is encrypted."""

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
        keys: keys of encrypted frames.
        mapping: what the columns of a head-end's own files mean, as TOML text; the format `mapped` needs it.
        fragment: the bytes are one frame out of a longer stream, so it is no error that the stream has no proper end.
    """

    source: str = ""
    meter: str = ""
    received_at_us: int | None = None
    zone: str = "Europe/Oslo"
    keys: Keys = NO_KEYS
    mapping: str = ""
    fragment: bool = False


@dataclass(frozen=True, slots=True)
class Decoded:
    """A good frame. `position`: its first byte in the stream. `verbatim`: the event to send as it is, if it is one.

    A frame may carry readings, what happened to the meter, weather, or several of them.
    """

    readings: tuple[Reading, ...]
    position: int
    verbatim: bytes = b""
    events: tuple[MeterEvent, ...] = ()
    weather: tuple[Observation, ...] = ()


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Bytes that are no usable frame, and why. `position`: the first of them in the stream.

    Args:
        prelude: bytes of the stream before it without which it means nothing (a header line, an alias table): to be
            decoded first when it is tried again.
        more: the next bad frame goes on where this one ends; both are pieces of one.
    """

    raw: bytes
    reason: str
    position: int
    prelude: bytes = b""
    more: bool = False


Item = Decoded | BadFrame
"""What decoders yield."""


@dataclass(frozen=True, slots=True)
class Format:
    """A named format. `globs`: names its files usually have.

    Args:
        standard: what defines it. tolerates: where real senders differ from that and are understood all the same.
        checked: the library or the published frames its decoder is compared with in the tests.
    """

    name: str
    help: str
    globs: tuple[str, ...]
    stream: Callable[[Iterable[bytes], Context], Iterator[Item]]
    """Decode a stream of chunks cut anywhere; memory stays bounded."""
    standard: str = ""
    tolerates: str = ""
    checked: str = ""

    def decode(self, data: bytes, source: str = "", context: Context | None = None) -> Iterator[Item]:
        """Decode bytes that are all there."""
        pieces = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
        return self.stream(pieces, context if context is not None else Context(source=source))


def bad_pieces(raw: bytes, reason: str, position: int, prelude: bytes = b"") -> Iterator[BadFrame]:
    """Rubbish as bad frames of bounded size."""
    for start in range(0, len(raw), BAD_FRAME_BYTES_MAX):
        end = start + BAD_FRAME_BYTES_MAX
        yield BadFrame(raw[start:end], reason, position + start, b"" if start else prelude, end < len(raw))


class Unusable(Exception):
    """Why a frame gives no readings. Decoders raise it inside; it never leaves `base.items`."""


Piece = tuple[bytes, int, bytes, str]
"""What framing yields: the raw bytes, their position, the message in them, and why there is none ("" if there is)."""


def items(
    pieces: Iterable[Piece], read: Callable[[bytes, int], Decoded | None], prelude: Callable[[], bytes] = bytes
) -> Iterator[Item]:
    """Framed messages as good and bad frames.

    Args:
        read: (message, position) to a good frame, or None for one that carries nothing on purpose. It may raise
            `Unusable` with a reason, and anything else: a bad frame must never stop the stream.
        prelude: what the next bad frame needs in front of it when it is tried again.
    """
    for raw, position, message, reason in pieces:
        if reason:
            yield from bad_pieces(raw, reason, position, prelude())
            continue
        before = prelude()
        try:
            decoded = read(message, position)
        except Unusable as error:
            yield from bad_pieces(raw, str(error), position, before)
        except Exception as error:
            yield from bad_pieces(raw, f"frame not understood: {type(error).__name__}: {error}"[:300], position, before)
        else:
            if decoded is not None:
                yield decoded
