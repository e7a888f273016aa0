"""Fetch JavaScript clients from npm as a lock file says, for tests.

    python scripts/fetch_node.py tests/conformance/js

Prints the directory that has them. It lies in `.kafka/` beside the sources (git-ignored), one a lock file, so only the
first run needs a network. Needs Node and npm; without them the caller is told why.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).resolve().parent.parent / ".kafka"
FETCH_S: Final = 300.0


class NodeUnavailable(Exception):
    """JavaScript clients cannot be had here; the text says why."""


def fetch(project: Path, cache: Path = CACHE) -> Path:
    """Where the packages of `project` (with package.json and its lock file) are. Raises NodeUnavailable."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NodeUnavailable(f"{program} is not installed")
    lock = (project / "package-lock.json").read_bytes()
    place = cache / f"{project.name}-{hashlib.sha256(lock).hexdigest()[:12]}"
    if (place / ".complete").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(project / name, place)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        told = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise NodeUnavailable(f"npm did not fetch them within {FETCH_S:.0f} s") from None
    if told.returncode:
        raise NodeUnavailable(f"npm could not fetch them: {told.stderr[-300:]}")
    (place / ".complete").touch()
    return place


def environment(place: Path) -> dict[str, str]:
    """Environment of a script that finds the packages through `GRIDWIRE_NODE_MODULES`."""
    return {**os.environ, "GRIDWIRE_NODE_MODULES": str(place / "package.json")}


if __name__ == "__main__":
    try:
        print(fetch(Path(sys.argv[1])))
    except NodeUnavailable as problem:
        sys.exit(str(problem))
