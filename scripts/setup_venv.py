"""Create the virtual environment and install gridwire with its tests' needs into it.

Standard library only: this is what runs before anything is installed.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - the one file that an older Python may start
        sys.exit("gridwire needs Python 3.11 or newer: run `make PYTHON=python3.11 demo`")
    target = Path(sys.argv[1])
    if not (target / "pyvenv.cfg").exists():
        venv.create(target, with_pip=True)
    python = target / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", ".[dev]"],
        check=True,
    )


if __name__ == "__main__":
    main()
