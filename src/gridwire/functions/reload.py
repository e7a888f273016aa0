"""Noticing that an app's files have changed, for hot reload while developing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SUFFIXES: Final = (".py", ".json")
SKIPPED: Final = frozenset({"__pycache__", "node_modules", "venv"})
"""Directories that hold no code of the app's own; those with a dot in front are passed over too."""

FILES_MAX: Final = 10_000
"""Files looked at: an app started in a home directory must not keep the disk busy."""

Fingerprint = dict[str, tuple[int, int]]


def fingerprint(directory: Path) -> Fingerprint:
    """Time of change and size of each file of an app."""
    found: Fingerprint = {}
    for root, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if name not in SKIPPED and not name.startswith(".")]
        for name in files:
            if name.endswith(SUFFIXES):
                path = Path(root, name)
                try:
                    told = path.stat()
                except OSError:
                    continue
                found[str(path)] = (told.st_mtime_ns, told.st_size)
        if len(found) >= FILES_MAX:
            break
    return found


class Watch:
    """Says once that files have changed, when they have come to rest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known = self._last = fingerprint(directory)

    def changed(self) -> bool:
        """Whether there is a change that the last look has seen already: a save of several files is one change."""
        now, before = fingerprint(self._directory), self._last
        self._last = now
        if now == self._known or now != before:
            return False
        self._known = now
        return True
