"""The page: built files that come with the package."""

from __future__ import annotations

from pathlib import Path


def static_directory() -> Path:
    """Where the built page lies."""
    return Path(__file__).parent / "static"
