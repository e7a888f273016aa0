"""Install the programs tests use: a browser, kcat, curl, FUSE for power cuts, and with npm the page's axe-core.

Where there is a newer Python beside an older one, also an environment of it: functions use azure-functions 2.x there.

Without them tests say so and skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = {"chromium": "chromium", "kcat": "kcat", "curl": "curl", "fusermount3": "fuse3", "faketime": "faketime"}


ROOT = Path(__file__).resolve().parent.parent
UI = ROOT / "src" / "gridwire" / "web" / "ui"

NEWER = (3, 13)
"""From this Python on azure-functions is of its second generation."""

NEWER_NEEDS = ("-e", f"{ROOT}[functions,kafka]", "pytest", "pytest-timeout", "hypothesis", "polars", "trustme")


def main() -> None:
    install_programs()
    install_axe()
    if sys.version_info < NEWER:
        install_newer_python(Path(sys.prefix) / "newer")


def install_newer_python(target: Path) -> None:
    """An environment for the tests of functions, made again when the project's needs change."""
    stamp, project = target / ".installed", ROOT / "pyproject.toml"
    if stamp.exists() and stamp.stat().st_mtime >= project.stat().st_mtime:
        return
    python = newer_python()
    if python is None:
        print("not installed, its tests will be skipped: a Python of 3.13 or newer", file=sys.stderr)
        return
    pip = [target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = ([python, "-m", "venv", "--clear", target], [*pip, *NEWER_NEEDS])
    if all(subprocess.run(step, check=False).returncode == 0 for step in steps):
        stamp.touch()


def newer_python() -> Path | None:
    """One that is on the path, or that pyenv keeps."""
    on_path = (shutil.which(f"python3.{minor}") for minor in (13, 14))
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.1[34]*/bin/python")
    for found in [*(Path(each) for each in on_path if each), *sorted(kept)]:
        told = subprocess.run(
            [found, "-c", "import sys; print(sys.version_info >= (3, 13))"], capture_output=True, check=False
        )
        if told.stdout.strip() == b"True":
            return found
    return None


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
