"""A receiver of webhooks over a real socket, which answers what a test wants."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Asked:
    """One request. `headers`: names in lower case. `status`: what it was answered, 0 where that is not known."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def data(self) -> dict[str, Any]:
        """The finding in a structured CloudEvent."""
        found: dict[str, Any] = json.loads(self.body)["data"]
        return found


def answering(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    """Always the same."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    answer.status = status  # type: ignore[attr-defined]
    return answer


class Receiver:
    """Answers 200 until it is told otherwise, and agrees to every handshake unless `agrees` is False."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, agrees: bool = False) -> None:
        self.asked: list[Asked] = []
        self.answers: Callable[[Asked], Answer] = lambda asked: answering(200)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body, 0)
                if agrees and self.command == "OPTIONS":
                    answering(200, {"webhook-allowed-origin": "*"})(self)
                    return
                answer = receiver.answers(asked)
                receiver.asked.append(Asked(self.command, self.path, headers, body, getattr(answer, "status", 0)))
                answer(self)

            do_POST = do_OPTIONS = handle_any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def always(self, answer: Answer) -> None:
        self.answers = lambda asked: answer

    def taken(self) -> list[dict[str, Any]]:
        """Findings that were answered with 2xx, as they came."""
        return [asked.data for asked in list(self.asked) if 200 <= asked.status < 300]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
