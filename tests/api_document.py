"""The hub's OpenAPI document as tests use it: its operations, and whether an answer is one that it tells of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

FILE = Path(__file__).parents[1] / "docs" / "reference" / "openapi.json"


@dataclass(frozen=True)
class Call:
    """One operation of a document."""

    method: str
    path: str
    told: dict[str, Any] = field(repr=False)
    document: dict[str, Any] = field(repr=False)

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A schema that stands by itself."""
        text = json.dumps(schema).replace("#/components/schemas/", "#/$defs/")
        known = json.dumps(self.document["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/")
        return {**json.loads(text), "$defs": json.loads(known)}

    def answer(self, status: int) -> dict[str, Any] | None:
        """What the document says of a status."""
        found = self.told["responses"].get(str(status), self.told["responses"].get("default"))
        if found is not None and "$ref" in found:
            found = self.document["components"]["responses"][found["$ref"].rpartition("/")[2]]
        return found

    def check(self, answer: httpx.Response) -> None:
        """Raises AssertionError: this answer is not in the document. A stream's body is not looked at."""
        where = f"{self.method} {answer.request.url} -> {answer.status_code}"
        told = self.answer(answer.status_code)
        assert told is not None, f"{where} is not told of"
        if answer.request.method == "HEAD" or answer.status_code == 204 or "default" in self.told["responses"]:
            return
        media = answer.headers.get("content-type", "")
        content = told.get("content", {})
        known = next((name for name in (media, media.partition(";")[0]) if name in content), None)
        if content:
            assert known is not None, f"{where} has the content type {media!r}"
        if known and "json" in known and "schema" in content[known]:
            problems = list(Draft202012Validator(self.resolved(content[known]["schema"])).iter_errors(answer.json()))
            assert not problems, f"{where}: {[(list(each.path), each.message) for each in problems[:3]]}"


def calls(document: dict[str, Any]) -> Iterator[Call]:
    """Every operation."""
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            yield Call(method.upper(), path, told, document)


def by_name(document: dict[str, Any]) -> dict[str, Call]:
    """Operations by their id."""
    return {call.told["operationId"]: call for call in calls(document)}
