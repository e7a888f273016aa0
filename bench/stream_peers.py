"""Peers of the Arrow functions: engines that run a Python programmer's stream program.

They are installed into `.streams/` beside the sources on first use (git-ignored, a virtual environment of its own:
nothing of gridwire depends on them; Pathway's licence is the Business Source License, and it is only measured). The
programs are in `stream_programs.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parent / ".streams"
PACKAGES: Final = ("pathway==0.33.0", "bytewax==0.21.1", "duckdb>=1.4", "orjson>=3.10")
INSTALL_S: Final = 600.0
RUN_S: Final = 600.0


class StreamsUnavailable(Exception):
    """They cannot be installed or do not run here; the text says why."""


def fetch(cache: Path = CACHE) -> Path:
    """The environment's Python, made on first use. Raises StreamsUnavailable."""
    python = cache / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    complete = cache / "complete"
    if complete.is_file():
        return python
    try:
        venv.create(cache, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *PACKAGES]
        told = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise StreamsUnavailable(f"they cannot be installed: {error}") from None
    if told.returncode:
        raise StreamsUnavailable(f"they cannot be installed: {(told.stderr.strip().splitlines() or [''])[-1][:200]}")
    complete.touch()
    return python


def run(engine: str, readings: Path) -> tuple[float, dict[tuple[str, str], tuple[int, int]]]:
    """Seconds, and by (transformer, begin of the quarter hour) the sum in thousandths and the count.

    Raises:
        StreamsUnavailable.
    """
    command = [str(fetch()), str(HERE / "stream_programs.py"), engine, str(readings)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    if told.returncode:
        raise StreamsUnavailable(f"{engine} failed: {(told.stderr.strip().splitlines() or [''])[-1][:200]}")
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found["seconds"], {(name, begin): (total, count) for name, begin, total, count in found["sums"]}
