#!/usr/bin/env python3
"""Build the page, or check that the committed build is of the committed sources.

    python scripts/build_web.py           npm ci, type check, vite build, manifest (needs Node 20.19 or newer)
    python scripts/build_web.py --check   compares hashes only; needs no Node

`static/manifest.json` names the hash of the sources a build came from and of every file it gave, so a build that was
forgotten, and a built file that was edited, are both found without building.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent.parent / "src" / "gridwire" / "web"
MANIFEST = "manifest.json"
NOT_SOURCES = frozenset({"node_modules", ".vite", ".svelte-kit", ".DS_Store"})


def files_of(directory: Path) -> list[Path]:
    """All files below a directory but what is installed or cached there, in the order of their names."""
    found = (path for path in directory.rglob("*") if path.is_file())
    kept = (path for path in found if not NOT_SOURCES.intersection(path.relative_to(directory).parts))
    return sorted(kept, key=lambda path: path.relative_to(directory).as_posix())


def sources_sha256(ui: Path) -> str:
    """One hash over names and contents of all sources; line endings do not count."""
    digest = hashlib.sha256()
    for path in files_of(ui):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(ui).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def manifest_of(ui: Path, static: Path) -> dict[str, object]:
    """What the manifest of this build of these sources says."""
    built = [path for path in files_of(static) if path.name != MANIFEST]
    hashes = {path.relative_to(static).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in built}
    return {"sources_sha256": sources_sha256(ui), "files": hashes}


def stale(ui: Path, static: Path) -> str | None:
    """Why the build is not of the sources; None when it is."""
    try:
        written = json.loads((static / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        return f"no readable manifest: {error}"
    now = manifest_of(ui, static)
    if written.get("sources_sha256") != now["sources_sha256"]:
        return "the sources have changed since the page was built"
    if written.get("files") != now["files"]:
        return "the built files are not those the build gave"
    return None


def build(ui: Path, static: Path) -> None:
    """Install what the lock file says, check types, build, write the manifest."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: building the page needs Node 20.19 or newer; using it does not")
    quiet = {**os.environ, "npm_config_fund": "false", "npm_config_audit": "false"}
    for command in (["ci"], ["run", "check"], ["run", "build"]):
        subprocess.run([npm, *command], cwd=ui, env=quiet, check=True)
    text = json.dumps(manifest_of(ui, static), indent=2) + "\n"
    (static / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare hashes only")
    ui, static = WEB / "ui", WEB / "static"
    if not parser.parse_args().check:
        build(ui, static)
        print(f"built {sum(path.stat().st_size for path in files_of(static)):,} bytes into {static}")
        return 0
    reason = stale(ui, static)
    if reason is None:
        return 0
    print(f"the built page is stale: {reason}. Run: python scripts/build_web.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
