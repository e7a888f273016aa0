"""Functions on azure-functions 2.x, which needs a newer Python: the tests of whole apps again, in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(sys.prefix) / "newer"
PYTHON = ENVIRONMENT / "bin" / "python"

pytestmark = [
    pytest.mark.skipif(
        not (ENVIRONMENT / ".installed").exists(), reason="`make test` found no Python of 3.13 or newer beside this one"
    ),
    pytest.mark.timeout(900),
]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [PYTHON, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=840, check=False
    )


def test_whole_apps_run_on_azure_functions_2(tmp_path):
    version = run("-c", "import importlib.metadata as m; print(m.version('azure-functions'))")
    assert version.stdout.startswith("2."), version
    flags = ("-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "newer")
    found = run("-m", "pytest", *flags, "tests/functions/test_functions_apps.py")
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-5_000:]
    assert " passed" in found.stdout and "skipped" not in found.stdout, found.stdout[-2_000:]
