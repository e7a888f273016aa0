"""XML as a stream of chosen elements: bounded memory, no entities, and the exact bytes of every element.

Each element whose local name is wanted comes out as a small tree with its place in the stream; what stands around it is
skipped. Namespaces are not compared: head-ends get them wrong, and the names are clear enough. A document type
declaration is refused, and with it every entity. After a syntax error reading goes on at the next wanted element.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from gridwire.grid.formats.base import Piece

ELEMENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Longest wanted element: a month of minute values of one meter is some 6 MB."""

DEPTH_MAX: Final = 64
"""No schema of ours nests half as deep."""

TOKEN_BYTES_MAX: Final = 1024 * 1024
"""Longest single tag or text; expat keeps an unfinished one in memory."""

_DOCTYPE = "document type declarations and entities are refused"


@dataclass(slots=True)
class Element:
    """An element without its namespaces."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""
    start: int = 0
    end: int = 0

    def find(self, *path: str) -> Element | None:
        """The first descendant along a path of names."""
        found: Element | None = self
        for name in path:
            found = next((child for child in found.children if child.name == name), None) if found else None
        return found

    def all(self, name: str) -> Iterator[Element]:
        """Children of a name."""
        return (child for child in self.children if child.name == name)

    def value(self, *path: str) -> str:
        """The text at a path, without blanks around it; "" where there is none."""
        found = self.find(*path)
        return found.text.strip() if found is not None else ""


class _Refused(Exception):
    """Why the rest of the document is not read; it never leaves this module."""


def raw_of(part: Element, inside: Element, raw: bytes) -> bytes:
    """The bytes of a descendant of an element whose bytes are `raw`; all of them where places are not known."""
    if not part.end and not part.start:
        return raw
    end = raw.find(b">", max(part.end - inside.start, 0)) + 1
    return raw[part.start - inside.start : end or len(raw)] or raw


Found = tuple[Piece, Element | None]
"""A wanted element with its raw bytes, or a bad piece and None. The third part of the piece is the ancestors' tags."""


class _Document:
    """One expat parser over a stretch of the stream that begins at `base`, below the open elements `ancestors`."""

    def __init__(self, wanted: frozenset[str], base: int, ancestors: list[str]) -> None:
        opening = "".join(f"<{name}>" for name in ancestors).encode()
        self._wanted = wanted
        self._base = base - len(opening)
        self.done: list[tuple[Element, list[str]]] = []
        self.stack: list[str] = []
        self._tree: list[Element] = []
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._doctype
        if opening:
            parser.Parse(opening, False)

    @property
    def position(self) -> int:
        return self._base + max(self._parser.CurrentByteIndex, 0)

    @property
    def open_at(self) -> int | None:
        """Where the wanted element that is being read begins."""
        return self._tree[0].start if self._tree else None

    def feed(self, data: bytes, final: bool = False) -> None:
        self._parser.Parse(data, final)

    def _doctype(self, *_: object) -> None:
        raise _Refused(_DOCTYPE)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.stack.append(name)
        if len(self.stack) > DEPTH_MAX:
            raise _Refused(f"elements are nested more than {DEPTH_MAX} deep")
        local = name.rpartition(":")[2]
        if not self._tree and local not in self._wanted:
            return
        element = Element(local, attributes, start=self.position)
        if self._tree:
            self._tree[-1].children.append(element)
        self._tree.append(element)

    def _end(self, name: str) -> None:
        self.stack.pop()
        if not self._tree:
            return
        element = self._tree.pop()
        element.end = self.position  # of the end tag, whose length is not known yet
        if not self._tree:
            self.done.append((element, list(self.stack)))

    def _text(self, text: str) -> None:
        if self._tree:
            self._tree[-1].text += text


def elements(chunks: Iterable[bytes], names: Iterable[str], fragment: bool = False) -> Iterator[Found]:
    """Wanted elements of a document cut anywhere.

    Args:
        fragment: the first chunk opens elements that nobody closes; what follows it is one piece in them.
    """
    yield from _Stream(frozenset(names), fragment).read(chunks)


class _Stream:
    def __init__(self, wanted: frozenset[str], fragment: bool) -> None:
        self._wanted = wanted
        self._fragment = fragment
        self._restart = re.compile(rb"<(?:[\w.-]{1,100}:)?(?:" + "|".join(sorted(wanted)).encode() + rb")[\s/>]")
        self._buffer = bytearray()  # bytes from self._position on
        self._position = 0
        self._document = _Document(wanted, 0, [])
        self._opened: list[str] = []

    def read(self, chunks: Iterable[bytes]) -> Iterator[Found]:
        blank = True
        chunks = iter(chunks)
        if self._fragment and (opening := next(chunks, b"")):
            yield from self._take(opening, False)
            blank = False
        self._opened = list(self._document.stack)
        for chunk in chunks:
            if blank and not self._buffer:
                stripped = chunk.lstrip(b" \t\r\n")
                self._position += len(chunk) - len(stripped)
                chunk = stripped
                if chunk:
                    blank = False
                    self._document = _Document(self._wanted, self._position, [])
            yield from self._take(chunk, False)
        if not blank:
            closing = b""
            if self._opened and self._document.stack == self._opened:
                closing = "".join(f"</{name}>" for name in reversed(self._opened)).encode()
            yield from self._take(closing, True)

    def _take(self, chunk: bytes, final: bool) -> Iterator[Found]:
        self._buffer += chunk
        data = chunk
        while True:
            reason = self._feed(data, final)
            yield from self._finished()
            if not reason:
                break
            bad, data = self._resume(reason, final)
            if bad is not None:
                yield bad, None
            if not data:
                return
        keep = self._document.open_at
        spare = (self._document.position if keep is None else keep) - self._position
        if 0 < spare <= len(self._buffer):
            del self._buffer[:spare]
            self._position += spare

    def _feed(self, data: bytes, final: bool) -> str:
        document = self._document
        try:
            document.feed(data, final)
        except _Refused as error:
            return str(error)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code)
            return f"not well-formed XML: {what}"
        except (LookupError, ValueError) as error:  # the parser asks Python for what it does not know itself
            return f"its encoding is none that is read: {error}"
        if document.open_at is not None and self._position + len(self._buffer) - document.open_at > ELEMENT_BYTES_MAX:
            return f"an element is longer than {ELEMENT_BYTES_MAX} bytes"
        if self._position + len(self._buffer) - document.position > TOKEN_BYTES_MAX:
            return f"a tag or text is longer than {TOKEN_BYTES_MAX} bytes"
        return ""

    def _finished(self) -> Iterator[Found]:
        for element, ancestors in self._document.done:
            start = element.start - self._position
            close = self._buffer.find(b">", element.end - self._position)
            end = close + 1 if close >= 0 else len(self._buffer)
            raw = bytes(self._buffer[max(start, 0) : end])
            opening = "".join(f"<{name}>" for name in ancestors).encode()
            yield (raw, element.start, opening, ""), element
        self._document.done = []

    def _resume(self, reason: str, final: bool) -> tuple[Piece | None, bytes]:
        """(bad piece, bytes still to be fed): go on at the next wanted element, or give the rest of this up."""
        begun = self._document.open_at
        begin = begun if begun is not None else min(self._document.position, self._position + len(self._buffer))
        begin = max(begin - self._position, 0)
        stack = self._document.stack
        if begun is not None:
            depth = len(stack) - len(self._document._tree)
            stack = stack[:depth]
        found = None if reason == _DOCTYPE else self._restart.search(self._buffer, begin + 1)
        end = found.start() if found else len(self._buffer)
        raw = bytes(self._buffer[begin:end])
        position = self._position + begin
        del self._buffer[:end]
        self._position += end
        if reason == _DOCTYPE:
            self._document = _Refusing(self._wanted, self._position)
        else:
            self._document = _Document(self._wanted, self._position, stack[: DEPTH_MAX // 2])
        rest = bytes(self._buffer)
        piece = (raw, position, b"", reason) if raw.strip() else None
        return piece, rest


class _Refusing(_Document):
    """Reads nothing more: a document that declared entities is not trusted with anything behind them."""

    def __init__(self, wanted: frozenset[str], base: int) -> None:
        super().__init__(wanted, base, [])

    def feed(self, data: bytes, final: bool = False) -> None:
        if data:
            raise _Refused(_DOCTYPE)
