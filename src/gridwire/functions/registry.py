"""Schemas of a registry with Confluent's API, for the values of Kafka triggers.

A value begins with 0 and the id of its schema (int32); `GET /schemas/ids/ID` tells the schema, which never changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import httpx

from gridwire.functions.avro import FRAME_BYTES, parsed, record_json

SCHEMAS_KNOWN: Final = 1000
PAUSES_S: Final = (0.2, 1.0, 3.0, 10.0)
"""Between tries when the registry does not answer: its events should not become dead letters for a moment's sake."""

_ANSWER_S: Final = 10.0


class Registry:
    """One registry. `user`, `password`: empty when it asks for none."""

    def __init__(
        self, url: str, user: str = "", password: str = "", *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        auth = (user, password) if user or password else None
        self._client = httpx.Client(base_url=url.rstrip("/"), auth=auth, timeout=_ANSWER_S)
        self._sleep = sleep
        self._known: dict[int, tuple[str, Any]] = {}

    def to_json(self, value: bytes) -> bytes:
        """A framed Avro record as JSON, or JSON as it is. Raises ValueError: not such a value, or no such schema;
        httpx.HTTPError: the registry does not answer."""
        if len(value) < FRAME_BYTES or value[0]:
            raise ValueError("the value does not begin with 0 and a schema id")
        kind, schema = self._schema(int.from_bytes(value[1:FRAME_BYTES], "big"))
        return value[FRAME_BYTES:] if kind == "JSON" else record_json(schema, value[FRAME_BYTES:])

    def _schema(self, number: int) -> tuple[str, Any]:
        found = self._known.get(number)
        if found is None:
            if len(self._known) >= SCHEMAS_KNOWN:
                self._known.clear()
            found = self._known[number] = self._learn(self._ask(number))
        return found

    def _learn(self, told: Mapping[str, Any]) -> tuple[str, Any]:
        kind = str(told.get("schemaType") or "AVRO")
        if kind == "JSON":
            return kind, None
        if kind != "AVRO" or told.get("references"):
            raise ValueError(f"schemas of type {kind}, or that refer to others, are not supported; Avro and JSON are")
        try:
            return kind, parsed(str(told.get("schema")))
        except Exception as error:  # the parser fails in its own ways on foreign text
            raise ValueError(f"the registry's schema is not Avro: {error}") from None

    def _ask(self, number: int) -> Mapping[str, Any]:
        for pause_s in (*PAUSES_S, None):
            try:
                answer = self._client.get(f"/schemas/ids/{number}")
                if answer.status_code < 500:
                    break
                answer.raise_for_status()
            except httpx.HTTPError:
                if pause_s is None:
                    raise
                self._sleep(pause_s)
        if answer.status_code != 200:
            raise ValueError(f"the registry has no schema {number} for us: HTTP {answer.status_code}")
        told = json.loads(answer.content)
        return told if isinstance(told, dict) else {}


@lru_cache(8)
def registry_at(url: str, user: str, password: str) -> Registry:
    """The one that functions of this process share."""
    return Registry(url, user, password)
