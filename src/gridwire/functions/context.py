"""What a function is told of its own call: `context`, and the names binding expressions may use."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gridwire.core.batch import Headers
from gridwire.functions.model import Call, Function

TRACE_BYTES_MAX: Final = 4096
"""Of a trace header: what is longer is nobody's trace."""

_invocation: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("invocation", default=("", ""))
_local = threading.local()
"""`context.thread_local_storage`: user threads copy `invocation_id` into it so that what they log finds its call."""


class TraceContext:
    """W3C trace context, under the names of both versions of the package."""

    def __init__(self, parent: str, state: str) -> None:
        self.trace_parent = self.Traceparent = parent
        self.trace_state = self.Tracestate = state
        self.attributes: dict[str, str] = {}
        self.Attributes = self.attributes


class Failure:
    """Why the last try failed."""

    def __init__(self, message: str) -> None:
        self.source = ""
        self.stack_trace = ""
        self.message = message


class RetryContext:
    """Which try this is."""

    def __init__(self, call: Call) -> None:
        self.retry_count = call.tries
        self.max_retry_count = call.tries_max
        self.exception = Failure(call.failure) if call.failure else None


class Context:
    """`func.Context` of one call."""

    def __init__(self, call: Call, directory: Path) -> None:
        self.invocation_id = call.id or str(uuid.uuid4())
        self.function_name = call.function
        self.function_directory = str(directory)
        self.thread_local_storage = _local
        self.trace_context = TraceContext(*call.trace)
        self.retry_context = RetryContext(call)


def child_trace(trace: tuple[str, str]) -> tuple[str, str]:
    """The same trace with a span of its own; a new trace when there is none or it is malformed."""
    parts = trace[0].split("-")
    span = uuid.uuid4().hex[:16]
    if len(parts) == 4 and len(parts[1]) == 32 and len(parts[2]) == 16:
        return f"00-{parts[1]}-{span}-{parts[3]}", trace[1]
    return f"00-{uuid.uuid4().hex}-{span}-01", ""


_PARENTS: Final = ("traceparent", "ce_traceparent", "Diagnostic-Id")
"""Headers that name the span an event was sent in, the first that is there counts: W3C's own (Kafka headers and AMQP
application properties alike), CloudEvents' distributed tracing attribute, and what older Azure SDKs write."""

_STATES: Final = ("tracestate", "ce_tracestate")


def trace_in(headers: Headers) -> tuple[str, str]:
    """Trace context (traceparent, tracestate) of an event; empty where it carries none."""
    if not headers:
        return "", ""
    found = dict(headers)
    parent, state = (
        next((value for name in names if (value := found.get(name))), b"")[:TRACE_BYTES_MAX].decode("latin-1")
        for names in (_PARENTS, _STATES)
    )
    return (parent, state) if parent else ("", "")


@contextmanager
def invocation(context: Context, function: Function) -> Iterator[None]:
    """What is logged meanwhile belongs to the call."""
    token = _invocation.set((function.name, context.invocation_id))
    _local.invocation_id = context.invocation_id
    try:
        yield
    finally:
        _invocation.reset(token)


class Lines(logging.Handler):
    """Log records as JSON lines on standard error, each with its function and invocation."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        name, number = _invocation.get()
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            "function": name or None,
            "invocation": number or getattr(_local, "invocation_id", None),
        }
        if record.exc_info:
            line["exception"] = logging.Formatter().formatException(record.exc_info)
        sys.stderr.write(json.dumps({k: v for k, v in line.items() if v is not None}, default=str) + "\n")


def configure_logging() -> None:
    """Everything user code logs, from INFO on; the package's own chatter from WARNING on."""
    logging.basicConfig(level=logging.INFO, handlers=[Lines()], force=True)
    for name in ("azure", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
