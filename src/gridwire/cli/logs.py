"""Log lines: readable on a terminal, JSON otherwise; always on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let imports go on as if a package were not installed."""
    modules = cast(dict[str, Any], sys.modules)
    had = package in modules
    before = modules.get(package)
    modules[package] = None
    try:
        yield
    finally:
        if had:
            modules[package] = before
        else:
            del modules[package]


# structlog imports rich if it can, a sixth of what a start costs, to draw tracebacks. Ours are plain text before they
# reach a renderer.
with _hidden("rich"):
    import structlog


def configure_logs() -> None:
    """Set up structlog for a long-running process."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
