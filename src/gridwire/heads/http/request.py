"""Reading requests within limits, and answering."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from gridwire.core import compression
from gridwire.core.errors import GridwireError, InvalidBatch, MessageTooLarge
from gridwire.heads.http.options import HttpLimits
from gridwire.wire.http.problems import BadBody, HttpError, Problem

JSON_HEADERS: Final[list[tuple[bytes, bytes]]] = [
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
]
_ENCODINGS: Final = {"gzip": compression.GZIP, "x-gzip": compression.GZIP, "zstd": compression.ZSTD}
_WHOLE = re.compile(r"-?\d{1,19}\Z")


Headers = list[tuple[bytes, bytes]]
_T = TypeVar("_T")


class ClientGone(GridwireError):
    """The client hung up before its request was whole: nobody waits for an answer."""


class BodyMemory:
    """How many bytes of request bodies are in memory over all connections."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.taken = 0

    def take(self, size: int) -> None:
        """Account for `size` more bytes. Raises HttpError 429 when there is no room."""
        if self.taken + size > self.bytes_max:
            raise HttpError(429, "too many large requests at once: try again in a moment", (("retry-after", "1"),))
        self.taken += size

    def give(self, size: int) -> None:
        """Give `size` bytes back."""
        self.taken -= size


def header(scope: Scope, name: bytes) -> bytes:
    """First value of a header (lower-case name), empty when it is absent."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


def query(scope: Scope) -> dict[str, str]:
    """Query parameters; the first of a name counts. Bytes that are not UTF-8 survive as surrogates."""
    raw = scope["query_string"]
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("latin-1"), True, errors="surrogateescape", max_num_fields=32)
    except ValueError:
        raise HttpError(400, "the request has more than 32 query parameters") from None
    return dict(reversed(pairs))


def whole_number(text: str, what: str) -> int:
    """A query parameter that must be a whole number. Raises HttpError."""
    if not _WHOLE.match(text):
        raise HttpError(400, f"{what} must be a whole number, not {text[:40]!r}")
    return int(text)


def number_of(params: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number within bounds from the query. Raises HttpError."""
    if name not in params:
        return default
    value = whole_number(params[name], name)
    if not least <= value <= most:
        raise HttpError(400, f"{name} must lie between {least} and {most}, not {value}")
    return value


async def read_body(scope: Scope, receive: Receive, limits: HttpLimits, bytes_max: int, memory: BodyMemory) -> bytes:
    """The request's body, decompressed, within size and time limits.

    The caller gives `len(body)` back to `memory` when it is done with it; if this raises, nothing is left taken.

    Raises:
        MessageTooLarge, HttpError (408, 415, 429), BadBody, ClientGone.
    """
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > bytes_max:
        raise too_large(bytes_max)
    taken = 0
    try:
        chunks: list[bytes] = []
        async for chunk in _chunks(receive, limits):
            memory.take(len(chunk))
            taken += len(chunk)
            if taken > bytes_max:
                raise too_large(bytes_max)
            chunks.append(chunk)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        encoding = header(scope, b"content-encoding")
        if encoding:
            body = decompressed(encoding.decode("latin-1"), body, bytes_max)
            memory.take(len(body) - taken)
            taken = len(body)
        return body
    except BaseException:
        memory.give(taken)
        raise


async def _chunks(receive: Receive, limits: HttpLimits) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    last = loop.time() + limits.body_total_s
    try:
        async with asyncio.timeout(limits.body_idle_s) as patience:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client hung up inside its request")
                yield message.get("body", b"")
                if not message.get("more_body", False):
                    return
                patience.reschedule(min(last, loop.time() + limits.body_idle_s))
    except TimeoutError:
        raise HttpError(408, "the body took too long to arrive", (("connection", "close"),)) from None


def too_large(bytes_max: int) -> MessageTooLarge:
    """What a body above its limit is answered with."""
    return MessageTooLarge(f"the body is above the limit of {bytes_max} bytes: send fewer events per request")


def decompressed(encoding: str, body: bytes, bytes_max: int) -> bytes:
    """Undo a Content-Encoding; the result is never larger than `bytes_max`."""
    name = encoding.strip().lower()
    if name == "identity":
        return body
    if name not in _ENCODINGS:
        raise HttpError(415, f"content-encoding {encoding[:40]!r} is not served", (("accept-encoding", "gzip, zstd"),))
    try:
        return bytes(compression.decompress(_ENCODINGS[name], body, bytes_max))
    except MessageTooLarge:
        raise MessageTooLarge(f"the body decompresses to more than {bytes_max} bytes") from None
    except InvalidBatch:
        raise BadBody(f"the body is not what content-encoding {name} says") from None


def parse_json(body: bytes, shape: type[_T]) -> _T:
    """An administrative body of a known shape. Raises BadBody with the path of what is wrong."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"the body is not what this address takes: {error}") from None


async def respond(send: Send, status: int, body: bytes, headers: Headers = JSON_HEADERS) -> None:
    """Send a whole answer."""
    if status != 204:  # which has neither a body nor a length
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_problem(send: Send, problem: Problem, content_type: str, body: bytes) -> None:
    """Send an error in whatever form the address has for them."""
    headers = [(b"content-type", content_type.encode()), (b"x-content-type-options", b"nosniff")]
    headers += [(name.encode(), value.encode()) for name, value in problem.headers]
    await respond(send, problem.status, body, headers)
