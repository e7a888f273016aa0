"""DLMS/COSEM push: data-notifications, plain or encrypted, over HDLC, wired M-Bus, the TCP/UDP wrapper, or bare.

    0F  invoke-id(4)  date-time  body                              data-notification
    DB  08 system-title(8)  length  SC  counter(4)  ... tag(12)    general-glo-ciphering, AES-GCM; DC: dedicated key

    E0  L.WWWWWW  number(2)  acknowledged(2)  length  part         general-block-transfer, L marks the last one

The security control byte SC has 0x20 for encryption and 0x10 for authentication; the nonce is system title and counter.
The date-time should be an octet string without a tag; some senders tag it (09 or 19), which is understood too. Input is
binary, or text with the frames of a message in hexadecimal per line. Messages in several HDLC or M-Bus frames are put
together; the latter number theirs, F marks the last one:

    68 L L 68  C A  000FSSSS  SAP SAP  part  checksum 16           M-Bus, EN 13757-1

Source: IEC 62056-5-3, IEC 62056-4-7 (wrapper), IEC 62056-46 (HDLC), EN 13757-1 and IEC 62056-7-3 (M-Bus).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gridwire.grid.formats import framing, mbus
from gridwire.grid.formats.base import Context, Decoded, Format, Item, Piece, Unusable, items
from gridwire.grid.formats.cosem import Body, Decoder, date_time_us
from gridwire.grid.formats.keys import MeterKey

MESSAGE_BYTES_MAX: Final = 64 * 1024
"""What the wrapper's length field can say, and more than segmented HDLC pushes need."""

RAW_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""Of the frames of a message: there may be empty ones."""

_LAST, _NUMBER, _NO_SEGMENT = 0x10, 0x0F, 0xE0
_SEGMENT_HEAD_BYTES = 5

_LLC = (b"\xe6\xe7\x00", b"\xe6\xe6\x00")
_NOTIFICATION, _CIPHERED = 0x0F, (0xDB, 0xDC)
_OTHER_APDUS: Final = {
    0xC2: "event-notification", 0xDD: "general-ciphering", 0xDF: "general-signing", 0xCC: "glo-event-notification",
}  # fmt: skip
_BLOCK, _LAST_BLOCK = 0xE0, 0x80
_AUTHENTICATED, _ENCRYPTED, _COMPRESSED = 0x10, 0x20, 0x80
_TAG_BYTES = 12
_NO_TAG_COUNTER = (2).to_bytes(4, "big")  # GCM encrypts from block 2 on


def stream(chunks: Iterable[bytes], context: Context) -> Iterator[Item]:
    """Decode pushes out of bytes or hexadecimal lines; see `base.Format.stream`."""
    source = framing.Pushback(chunks, framing.FRAME_BYTES_MAX + 2)
    first = source.peek()
    if framing.HEX_TEXT.match(first):
        pieces = framing.hex_lines(source, 3 * MESSAGE_BYTES_MAX, lambda data: _messages([data], data[:1], data[:2]))
    else:
        pieces = _messages(source, first[:1], first[:2])
    return items(pieces, lambda message, position: Decoded(Message(message, context).readings, position))


def _messages(chunks: Iterable[bytes], first: bytes, two: bytes) -> Iterator[Piece]:
    return _segments(_frames(chunks, first, two), _block)


def _frames(chunks: Iterable[bytes], first: bytes, two: bytes) -> Iterator[Piece]:
    if first in (b"\x0f", b"\xdb", b"\xdc", b"\xe6"):
        return framing.lone(chunks, MESSAGE_BYTES_MAX, "neither frames nor one message")
    if two == b"\x00\x01":
        return framing.cut(chunks, _next_wrapper)
    if first == b"\x68":
        return _segments(framing.cut(chunks, mbus.next_frame), _mbus_segment)
    return _segments(framing.hdlc_frames(chunks, framing.checked), framing.information)


def _block(message: bytes) -> framing.Segment:
    """What a message is of a longer one: a block, where it is one. Raises ValueError."""
    data = message[len(_LLC[0]) :] if message.startswith(_LLC) else message
    if not data or data[0] != _BLOCK:
        return framing.Segment(b"", message, False)
    decoder = Decoder(data, 1)
    try:
        control, number = decoder.take(1)[0], int.from_bytes(decoder.take(2), "big")
        decoder.take(2)  # the number of a block acknowledged: nobody answers a push
        part = decoder.take(decoder.length())
    except Unusable as error:
        raise ValueError(str(error)) from None
    return framing.Segment(data[:1], part, not control & _LAST_BLOCK, number - 1 & _NUMBER)


def _mbus_segment(content: bytes) -> framing.Segment:
    """Raises ValueError: the frame is another one."""
    if len(content) < _SEGMENT_HEAD_BYTES or content[2] & _NO_SEGMENT:
        raise ValueError("M-Bus frame without a part of a DLMS message: perhaps of the format mbus")
    goes_on, number = not content[2] & _LAST, content[2] & _NUMBER
    return framing.Segment(content[:2] + content[3:5], content[_SEGMENT_HEAD_BYTES:], goes_on, number)


def _next_wrapper(buffer: bytearray, ended: bool) -> tuple[int, bytes, str] | None:
    if len(buffer) < 8 and not ended:
        return None
    if buffer[:2] == b"\x00\x01":
        size = 8 + int.from_bytes(buffer[6:8], "big")
        if 8 < size <= len(buffer):
            return size, bytes(buffer[8:size]), ""
        if len(buffer) < size and not ended:
            return None
    return framing.rubbish_bytes(buffer, b"\x00\x01\x00", ended), b"", "no wrapper frame of version 1, or it ends early"


def _segments(frames: Iterable[Piece], read: Callable[[bytes], framing.Segment]) -> Iterator[Piece]:
    """Put messages in several frames together; the raw bytes of a message are those of all its frames.

    Args:
        read: the segment in a frame. Raises ValueError.
    """
    raw, position, message, sender, count = b"", 0, b"", b"", 0
    for frame, place, content, reason in frames:
        segment = _NOTHING
        if not reason:
            try:
                segment = read(content)
            except ValueError as error:
                reason = str(error)
        if not (reason or raw or segment.goes_on or segment.number > 0):  # a whole message, as most are
            if segment.part:
                yield frame, place, segment.part, ""
            continue
        is_next = segment.addresses == sender and segment.number in (-1, count & _NUMBER)
        too_long = len(message) + len(segment.part) > MESSAGE_BYTES_MAX or len(raw) + len(frame) > RAW_BYTES_MAX
        if raw and (reason or not is_next or too_long):
            yield raw, position, b"", "a segmented message without its end"
            raw, message, count = b"", b"", 0
        if not reason and not raw and segment.number > 0:
            reason = "a segmented message without its beginning"
        if reason:
            yield frame, place, b"", reason
            continue
        if not raw:
            position, sender = place, segment.addresses
        raw, message, count = raw + frame, message + segment.part, count + 1
        if not segment.goes_on:
            if message:
                yield raw, position, message, ""
            raw, message, count = b"", b"", 0
    if raw:
        yield raw, position, b"", "a segmented message without its end"


_NOTHING: Final = framing.Segment(b"", b"", False)


class Message:
    """One APDU. Raises Unusable, also for a key that is missing, which it names."""

    def __init__(self, data: bytes, context: Context) -> None:
        if data[:3] in _LLC:
            data = data[3:]
        system_title = b""
        if data[:1] and data[0] in _CIPHERED:
            data, system_title = decrypted(data, context)
        if not data or data[0] != _NOTIFICATION:
            kind = _OTHER_APDUS.get(data[0], f"APDU {data[0]:#04x}") if data else "an empty APDU"
            raise Unusable(f"{kind} is not supported: only data-notification, plain or in general-glo-ciphering")
        decoder = Decoder(data, 5)
        sent_us = _date_time(decoder, context)
        body = decoder.value()
        if data[decoder.position :].strip(b"\x00"):
            raise Unusable("bytes after the body of the notification")
        self.readings = Body(body, context, system_title.hex(), sent_us).readings()


def _date_time(decoder: Decoder, context: Context) -> int | None:
    size = decoder.take(1)[0]
    if size in (0x09, 0x19):  # a type tag where none belongs
        size = decoder.take(1)[0] if size == 0x09 else 12
    raw = decoder.take(size)
    return date_time_us(raw, context.zone) if size else None


def decrypted(data: bytes, context: Context) -> tuple[bytes, bytes]:
    """(plain APDU, system title) of a ciphered one.

    Raises:
        Unusable: no key, a key that does not fit, or a frame that is cut.
    """
    sealed, key = unpacked(data, context)
    return opened(sealed, key), sealed.title


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is in a ciphered frame."""

    title: bytes
    control: int
    nonce: bytes
    body: bytes


def unpacked(data: bytes, context: Context) -> tuple[Sealed, MeterKey]:
    """A ciphered frame and its meter's keys. Raises Unusable."""
    decoder = Decoder(data, 1)
    title = decoder.take(decoder.length())
    content = decoder.take(decoder.length())
    if len(title) != 8 or len(content) < 6:
        raise Unusable("ciphered frame without a system title of 8 bytes or without content")
    control, counter, body = content[0], content[1:5], content[5:]
    if control & _COMPRESSED:
        raise Unusable("compressed frames are not supported")
    key = context.keys.find(title.hex(), context.meter)
    if key is None:
        raise Unusable(f"no key for system title {title.hex()}: add it to the key file")
    return Sealed(title, control, title + counter, body), key


def opened(sealed: Sealed, key: MeterKey) -> bytes:
    """The plain text, authenticated if the frame is. Raises Unusable."""
    title, control, nonce, body = sealed.title, sealed.control, sealed.nonce, sealed.body
    if control & _AUTHENTICATED and not key.authentication:
        raise Unusable(f"no authentication key for system title {title.hex()}: add it to the key file")
    head = bytes([control]) + key.authentication
    if not control & _AUTHENTICATED:
        if not control & _ENCRYPTED:
            return body
        return _deciphered(nonce, body, key)
    text, tag = body[:-_TAG_BYTES], body[-_TAG_BYTES:]
    plain = not control & _ENCRYPTED
    cipher = Cipher(algorithms.AES(key.encryption), modes.GCM(nonce, tag, _TAG_BYTES)).decryptor()
    cipher.authenticate_additional_data(head + text if plain else head)
    try:
        deciphered = b"" if plain else cipher.update(text)
        cipher.finalize()
    except (InvalidTag, ValueError):
        raise Unusable(f"the key for system title {title.hex()} does not open this frame, or it was changed") from None
    return text if plain else deciphered


def opened_unverified(sealed: Sealed, key: MeterKey) -> bytes:
    """The plain text of an authenticated frame whose tag is not looked at: for who has a checksum, and no other key."""
    return _deciphered(sealed.nonce, sealed.body[:-_TAG_BYTES], key)


def _deciphered(nonce: bytes, body: bytes, key: MeterKey) -> bytes:
    cipher = Cipher(algorithms.AES(key.encryption), modes.CTR(nonce + _NO_TAG_COUNTER)).decryptor()
    return cipher.update(body) + cipher.finalize()


FORMAT: Final = Format(
    "dlms", "DLMS/COSEM push (data-notification), plain or AES-GCM", ("*.dlms", "*.hdlc", "*.axdr"), stream,
    "IEC 62056-5-3, 62056-6-2, 62056-46 (HDLC), 62056-4-7 (wrapper), 62056-7-3 (M-Bus)",
    "a date-time tagged as octet string, bare APDUs, push lists that count themselves or not, values in pairs or "
    "structures, times without offset (zone), a missing clock (time of receipt)",
    "dlms-cosem 21.3.2 (values and ciphering), Kamstrup and Aidon frames, a published one of Netz NÖ",
)  # fmt: skip
"""The format as the registry lists it."""
