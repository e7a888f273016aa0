"""Fetch KEDA's custom resource definitions, as its release publishes them, for the tests of `deploy/kubernetes`.

    python scripts/fetch_keda.py

Prints the directory. The files come with KEDA's Go module (Apache-2.0) and stay in Go's own cache; nothing of them is
kept here. Needs Go; without it the caller is told why.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

MODULE: Final = "github.com/kedacore/keda/v2@v2.18.0"
FETCH_S: Final = 300.0


class KedaUnavailable(Exception):
    """The definitions cannot be had here; the text says why."""


def fetch() -> Path:
    """Directory of the definitions. Raises KedaUnavailable."""
    go = shutil.which("go")
    if go is None:
        raise KedaUnavailable("Go is not installed")
    try:
        told = subprocess.run(
            [go, "mod", "download", "-json", MODULE], capture_output=True, text=True, timeout=FETCH_S, check=False,
            cwd=Path(__file__).resolve().parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise KedaUnavailable(f"{MODULE} cannot be fetched within {FETCH_S:.0f} s") from None
    if told.returncode:
        raise KedaUnavailable(f"{MODULE} cannot be fetched: {told.stdout or told.stderr}")
    return Path(json.loads(told.stdout)["Dir"]) / "config" / "crd" / "bases"


if __name__ == "__main__":
    try:
        print(fetch())
    except KedaUnavailable as problem:
        sys.exit(str(problem))
