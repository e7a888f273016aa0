"""TLS for every head: one context, whose certificate is read again when its files change; and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog

from gridwire.core.errors import InvalidSetting

POLL_S: Final = 2.0
"""How often the files are looked at."""

GOODBYE_S: Final = 0.5
"""How long a peer may take to answer that a connection ends: enough for the farthest; one that is idle never does."""

log = structlog.get_logger("gridwire.tls")


class Certificates:
    """A server's certificate, and optionally the authorities whose clients it takes.

    Args:
        client_ca: certificates of those authorities. require: refuse clients that show none.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None, *, require: bool = False) -> None:
        self._cert, self._key, self._client_ca, self._require = cert, key, client_ca, require
        self.context = self._made()
        self._seen = self._stamps()
        self._task: asyncio.Task[None] | None = None

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.num_tickets = 0  # a session must not outlive the certificate or the authority it began with
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert, self._key)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED if self._require else ssl.CERT_OPTIONAL
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise InvalidSetting(f"the certificate files cannot be used ({reason}): check {self._cert}") from None

    def _files(self) -> list[Path]:
        return [path for path in (self._cert, self._key, self._client_ca) if path is not None]

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for path in self._files():
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return found

    def reload_if_changed(self) -> bool:
        """Take files that changed; ones that do not fit together are left for the next look, the old stay in force."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            self._made()
            self._load(self.context)
        except InvalidSetting as error:
            log.warning("certificate not reloaded", reason=str(error))
            return False
        self._seen = stamps
        log.info("certificate reloaded", cert=str(self._cert))
        return True

    def watch(self) -> None:
        """Look at the files from now on."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            self.reload_if_changed()

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def hang_up(transport: asyncio.Transport) -> None:
    """Close once all is written. Over TLS this waits for the peer to say goodbye too, but no longer than `GOODBYE_S`.

    A client that keeps an idle connection reads nothing, so it would hold up the stop of its hub for the whole drain.
    """
    transport.close()
    if transport.get_extra_info("sslcontext") is not None:
        asyncio.get_running_loop().call_later(GOODBYE_S, _cut_if_written, transport)


def _cut_if_written(transport: asyncio.Transport) -> None:
    if not transport.get_write_buffer_size():
        transport.abort()


def certificate_names(certificate: dict[str, Any]) -> Iterator[str]:
    """Names a verified client certificate carries: alternative names first, then the common name."""
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "URI", "email"):
            yield value
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                yield value
