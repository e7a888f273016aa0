"""Azure's schema registry over HTTP: content types that tell the format, headers of an answer, errors.

Source: Azure/azure-rest-api-specs, Microsoft.EventHub data plane, schemaregistry.json 2022-10.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gridwire.core.errors import Unsupported
from gridwire.schemas.model import Format
from gridwire.wire.http.problems import Problem

CONTENT_TYPES: Final = {
    Format.AVRO: "application/json; serialization=Avro",
    Format.JSON: "application/json; serialization=Json",
    Format.CUSTOM: "text/plain; charset=utf-8",
}
GET_ID: Final = ":get-id"
"""What follows a schema's name in the address that finds a version by its definition."""

_CODES: Final = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "ItemNotFound",
    409: "Conflict",
    415: "InvalidSchemaType",
    429: "TooManyRequests",
}


def format_of(content_type: str) -> Format:
    """The format a request's content type tells. Raises Unsupported."""
    wanted = content_type.replace(" ", "").lower()
    for kind, text in CONTENT_TYPES.items():
        if wanted == text.replace(" ", "").lower():
            return kind
    if wanted.partition(";")[0] == "text/plain":
        return Format.CUSTOM
    raise Unsupported(f"a schema has one of the content types {', '.join(CONTENT_TYPES.values())}")


def rendered(problem: Problem) -> tuple[str, bytes]:
    """An error as the registry answers it: content type and body."""
    code = _CODES.get(problem.status, "InvalidRequest" if problem.status < 500 else "InternalError")
    return "application/json", msgspec.json.encode({"error": {"code": code, "message": problem.detail}})
