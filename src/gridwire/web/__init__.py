"""The page: built static files that any HTTP server may serve; it uses nothing but the hub's public HTTP API."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["static_directory"]


def static_directory() -> Path:
    """Where the built page lies in this installation."""
    return Path(str(resources.files(__package__) / "static"))
