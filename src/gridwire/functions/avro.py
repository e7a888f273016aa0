"""Avro values of Kafka triggers, framed as Confluent's serializers do: 0, schema id (int32), the record."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from typing import Any, Final

import fastavro

FRAME_BYTES: Final = 5


@lru_cache(64)
def parsed(schema: str) -> Any:
    """A schema from its JSON. Raises whatever is wrong with it."""
    return fastavro.parse_schema(json.loads(schema))


def to_json(schema: str, value: bytes) -> bytes:
    """A framed record as JSON; the schema is the trigger's, whatever the id says. Raises ValueError."""
    if len(value) < FRAME_BYTES or value[0]:
        raise ValueError("the value does not begin like a framed Avro record: 0 and a schema id")
    return record_json(parsed(schema), value[FRAME_BYTES:])


def record_json(schema: Any, data: bytes) -> bytes:
    """A record without a frame as JSON. Raises ValueError."""
    try:
        record = fastavro.schemaless_reader(io.BytesIO(data), schema, None)
    except Exception as error:  # the reader fails in its own ways on foreign bytes
        raise ValueError(f"the value does not fit its Avro schema: {type(error).__name__}: {error}") from None
    return json.dumps(record, default=str).encode()
