"""The page: static files with headers that let nothing foreign run in it."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gridwire.wire.http.problems import HttpError

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "worker-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""By suffix; the operating system's own table is not asked for these, as it may say anything."""

_HASHED = re.compile(r"[.-][A-Za-z0-9_-]{8,}\.[a-z0-9]+\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")

NO_PAGE: Final = """gridwire is running. The page has not been built into this installation.

The API is under /v1: try
  curl -s {base}/v1/status
  curl -s {base}/v1/hubs
  curl -s {base}/v1/openapi.json
Metrics are under /metrics.
"""


class Pages:
    """Serves one directory. Names are checked segment by segment, so no path leads out of it."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a GET or HEAD. Raises HttpError 404, 405."""
        if scope["method"] not in ("GET", "HEAD"):
            raise HttpError(405, "pages are read with GET", (("allow", "GET, HEAD"),))
        response = self._response(scope["path"], scope)
        await response(scope, receive, send)

    def _response(self, path: str, scope: Scope) -> Response:
        name = path[1:] or "index.html"
        found = self._find(name)
        if found is None:
            if name == "index.html":
                server = scope.get("server") or ("127.0.0.1", 0)
                base = f"http://{server[0]}:{server[1]}"
                return PlainTextResponse(NO_PAGE.format(base=base), headers=SECURITY_HEADERS)
            raise HttpError(404, f"nothing is at {path[:80]!r}; the API is under /v1")
        hashed = name.startswith("assets/") and _HASHED.search(name)
        cache = "public, max-age=31536000, immutable" if hashed else "no-cache"
        kind = _TYPES.get(found.suffix) or mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        return FileResponse(found, media_type=kind, headers={**SECURITY_HEADERS, "cache-control": cache})

    def _find(self, name: str) -> Path | None:
        if self._directory is None or not all(map(_SEGMENT.match, name.split("/"))):
            return None
        path = self._directory / name
        return path if path.is_file() else None
