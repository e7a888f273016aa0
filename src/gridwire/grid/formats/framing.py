"""Cutting byte streams into messages: HDLC frames, wrapper frames, hexadecimal lines, lone messages.

    7E  A x LL  destination  source  control  HCS HCS  information ...  FCS FCS  7E        HDLC, ISO/IEC 13239
    00 01  source SAP  destination SAP  length  APDU                                      wrapper, IEC 62056-4-7

HDLC frames are of format type 3 without octet stuffing, as meters send them: the length field says where a frame ends,
so a 7E inside is no flag. A frame whose segmentation bit is set is continued by the next one of the same addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from fastcrc import crc16

from gridwire.grid.formats.base import Piece

FLAG: Final = 0x7E
_FORMAT_TYPE = 0xA0
_SEGMENTED = 0x08
_FRAME_BYTES_MIN = 7
FRAME_BYTES_MAX: Final = 0x7FF
"""Eleven bits of length."""

HEX_TEXT: Final = re.compile(rb"\s*(?:#|[0-9A-Fa-f]{2}(?:[0-9A-Fa-f\s:]|\Z))")
"""How text with hexadecimal lines begins; no binary message of ours starts like this."""

_NOT_HEX = re.compile(rb"[\s:]")


class Pushback:
    """An iterator of chunks whose beginning can be looked at first."""

    def __init__(self, chunks: Iterable[bytes], peek_bytes: int) -> None:
        self._chunks = iter(chunks)
        self._peek_bytes = peek_bytes
        self._head = b""

    def peek(self) -> bytes:
        """The first bytes, as many as asked for or as there are."""
        while len(self._head) < self._peek_bytes:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._head += chunk
        return self._head

    def __iter__(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        yield from self._chunks


NextPiece = Callable[[bytearray, bool], tuple[int, bytes, str] | None]
"""(buffer, ended) to (size, message, reason) of the piece at the front; None when more bytes are needed.

A piece with neither message nor reason is skipped. When `ended`, None means that nothing is left.
"""


def cut(chunks: Iterable[bytes], next_piece: NextPiece) -> Iterator[Piece]:
    """Cut a binary stream into pieces; `next_piece` bounds the memory by never asking for more than a frame."""
    buffer = bytearray()
    position = 0
    ended = False
    source = iter(chunks)
    while True:
        piece = next_piece(buffer, ended) if buffer else None
        if piece is None:
            if ended:
                return
            chunk = next(source, None)
            ended = chunk is None
            buffer += chunk or b""
            continue
        size, message, reason = piece
        if message or reason:
            yield bytes(buffer[:size]), position, message, reason
        del buffer[:size]
        position += size


def rubbish_bytes(buffer: bytearray, marker: bytes, ended: bool) -> int:
    """How much of the front belongs to no frame: all before the next marker, or before what may become one."""
    following = buffer.find(marker, 1)
    if following > 0:
        return following
    kept = 0 if ended else len(marker) - 1
    while kept and not (len(buffer) > kept and buffer.endswith(marker[:kept])):
        kept -= 1
    return len(buffer) - kept


def hdlc_frames(chunks: Iterable[bytes], content: Callable[[bytes], bytes | None]) -> Iterator[Piece]:
    """HDLC frames. `content`: the message of a frame between its flags, None when a check sequence is wrong."""

    def next_piece(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
        return _next_hdlc(buffer, ended, content)

    return cut(chunks, next_piece)


def _next_hdlc(
    buffer: bytearray, ended: bool, content: Callable[[bytes], bytes | None]
) -> tuple[int, bytes, str] | None:
    start = buffer.find(FLAG)
    if start != 0:
        return (start if start > 0 else len(buffer)), b"", "bytes outside any frame"
    if len(buffer) > 1 and buffer[1] == FLAG:
        return 1, b"", ""  # end flag, then start flag
    if len(buffer) < 3:
        return (len(buffer), b"", "" if len(buffer) == 1 else "frame ends early") if ended else None
    length = (buffer[1] & 0x07) << 8 | buffer[2]
    if buffer[1] & 0xF0 == _FORMAT_TYPE and length >= _FRAME_BYTES_MIN:
        if len(buffer) < length + 2 and not ended:
            return None
        without_end = ended and len(buffer) == length + 1  # out of quarantine: the flag belonged to the next frame
        if without_end or (len(buffer) >= length + 2 and buffer[length + 1] == FLAG):
            message = content(bytes(buffer[1 : length + 1]))
            if message is not None:
                return length + 1, message, ""  # the end flag may be the next frame's start flag
            return length + 1, b"", "FCS of the frame does not match its bytes"
    following = buffer.find(FLAG, 1)
    if following < 0 and not ended and len(buffer) <= FRAME_BYTES_MAX + 2:
        return None
    return (following if following > 0 else len(buffer)), b"", "frame ends early or is not of HDLC format type 3"


def checked(content: bytes) -> bytes | None:
    """A frame's bytes between the flags when its frame check sequence is right, else None."""
    return content if crc16.ibm_sdlc(content[:-2]) == int.from_bytes(content[-2:], "little") else None


class Segment(NamedTuple):
    """A part of a message. `number`: where it stands in it, -1 if frames do not say. `goes_on`: more is to come."""

    addresses: bytes
    part: bytes
    goes_on: bool
    number: int = -1


def information(content: bytes) -> Segment:
    """The information field of a checked HDLC frame's bytes.

    Raises:
        ValueError: the addresses do not end, or the header check sequence is wrong.
    """
    end = 2
    for _ in range(2):  # destination, source: the last byte of an address is odd
        start = end
        while end < len(content) - 3 and not content[end] & 1 and end - start < 4:
            end += 1
        end += 1
    addresses = content[2:end]
    end += 1  # control
    if end == len(content) - 2:
        return Segment(addresses, b"", False)
    if crc16.ibm_sdlc(content[:end]) != int.from_bytes(content[end : end + 2], "little"):
        raise ValueError("HCS of the frame does not match its header")
    return Segment(addresses, content[end + 2 : -2], bool(content[0] & _SEGMENTED))


def hex_lines(
    chunks: Iterable[bytes], line_bytes_max: int, inner: Callable[[bytes], Iterator[Piece]]
) -> Iterator[Piece]:
    """Messages in hexadecimal, one a line; `#` starts a comment. `inner` cuts the bytes of one line."""
    buffer = bytearray()
    position = 0
    for chunk in chunks:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0 or len(buffer) > line_bytes_max:
            size = end + 1 if 0 <= end <= line_bytes_max else line_bytes_max
            yield from _hex_line(bytes(buffer[:size]), position, inner)
            del buffer[:size]
            position += size
    yield from _hex_line(bytes(buffer), position, inner)


def _hex_line(raw: bytes, position: int, inner: Callable[[bytes], Iterator[Piece]]) -> Iterator[Piece]:
    digits = _NOT_HEX.sub(b"", raw.partition(b"#")[0])
    if not digits:
        return
    try:
        data = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        yield raw, position, b"", "line is not hexadecimal"
        return
    for frame, _, message, reason in inner(data):
        yield frame, position, message, reason


def lone(chunks: Iterable[bytes], bytes_max: int, reason: str) -> Iterator[Piece]:
    """One message that is the whole input; `reason` is why a longer input is none."""
    data = b""
    position = 0
    for chunk in chunks:
        data += chunk
        if len(data) > bytes_max:
            yield data, position, b"", reason
            position += len(data)
            data = b""
    if data and position == 0:
        yield data, position, data, ""
    elif data:
        yield data, position, b"", reason
