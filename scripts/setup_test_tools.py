"""Install the programs tests use: a browser, kcat, curl, FUSE for power cuts, and with npm the page's axe-core.

Without them tests say so and skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = {"chromium": "chromium", "kcat": "kcat", "curl": "curl", "fusermount3": "fuse3", "faketime": "faketime"}


UI = Path(__file__).resolve().parent.parent / "src" / "gridwire" / "web" / "ui"


def main() -> None:
    install_programs()
    install_axe()


def install_axe() -> None:
    """The page's packages, as its lock file names them; one of them checks accessibility."""
    npm = shutil.which("npm")
    if npm is not None and not (UI / "node_modules" / "axe-core").exists():
        subprocess.run([npm, "ci", "--silent", "--no-fund", "--no-audit"], cwd=UI, check=False)


def install_programs() -> None:
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        print(f"not installed, their tests will be skipped: {', '.join(missing)}", file=sys.stderr)
        return
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=False, **quiet)


if __name__ == "__main__":
    main()
