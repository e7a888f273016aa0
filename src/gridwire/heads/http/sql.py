"""POST /v1/sql: questions about the lake, each answered by a process of its own (`gridwire.capture.ask`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Literal

import msgspec

from gridwire.heads.http.files import through
from gridwire.heads.http.request import Headers, parse_json
from gridwire.wire.http.problems import HttpError

QUERY_CHARS_MAX: Final = 100_000
ROWS_MAX: Final = 50_000
"""Rows of one answer in JSON."""

FILE_ROWS_MAX: Final = 1_000_000
HEAD_BYTES_MAX: Final = 64 * 1024
"""The first line of an answer: nothing, or what is wrong with the question."""

_TYPES: Final = {
    "json": b"application/json",
    "csv": b"text/csv; charset=utf-8",
    "ndjson": b"application/x-ndjson",
    "parquet": b"application/vnd.apache.parquet",
}


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/sql: one statement that reads."""

    query: str
    limit: int = 10_000
    format: Literal["json", "csv", "ndjson", "parquet"] = "json"


class Sql:
    """What the addresses do.

    Args:
        command: answers one question about the lake; empty where there is no lake.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command

    def ask(self, body: bytes) -> tuple[Headers, AsyncGenerator[bytes, None]]:
        """Headers and body of the answer. Raises HttpError 400, at once or when the body begins."""
        wanted = parse_json(body, Question)
        most = ROWS_MAX if wanted.format == "json" else FILE_ROWS_MAX
        if not 1 <= wanted.limit <= most:
            raise HttpError(400, f"limit is 1 to {most:,} rows of {wanted.format}")
        if not wanted.query.strip() or len(wanted.query) > QUERY_CHARS_MAX:
            raise HttpError(400, f"query is one SQL statement of at most {QUERY_CHARS_MAX:,} characters")
        headers = [(b"content-type", _TYPES[wanted.format]), *_ALWAYS]
        if wanted.format != "json":
            headers.append((b"content-disposition", f'attachment; filename="answer.{wanted.format}"'.encode()))
        return headers, self._answer(wanted)

    def tables(self) -> tuple[Headers, AsyncGenerator[bytes, None]]:
        """Tables and their columns, in JSON."""
        return [(b"content-type", _TYPES["json"]), *_ALWAYS], self._answer({})

    async def _answer(self, question: Any) -> AsyncGenerator[bytes, None]:
        if not self._command:
            raise HttpError(404, "there is no lake here: ask a hub that runs workers")
        async with aclosing(through(self._command, _once(msgspec.json.encode(question)))) as parts:
            head = b""
            async for part in parts:
                head += part
                if b"\n" in head or len(head) > HEAD_BYTES_MAX:
                    break
            line, _, rest = head.partition(b"\n")
            told = msgspec.json.decode(line or b"{}", type=dict[str, str])
            if "error" in told:
                raise HttpError(400, told["error"])
            yield rest
            async for part in parts:
                yield part


_ALWAYS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
