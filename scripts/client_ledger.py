"""What ledgers of tested clients are made of. `kafka_clients` and `amqp_clients` are such ledgers.

Every row names the tests it rests on; `missing_tests` finds names that no test file has any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests" / "conformance"


@dataclass(frozen=True, slots=True)
class Client:
    """One client: name, version the tests use, what passes, the tests, by file and the start of their names, and what
    its users should know."""

    name: str
    version: str
    passes: str
    file: str
    tests: tuple[str, ...]
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """What does not work, with whom, and what to do instead."""

    what: str
    clients: str
    instead: str


def npm_version(directory: str, name: str) -> str:
    """The version the tests in a directory of `tests/conformance` install."""
    lock = json.loads((TESTS / directory / "package-lock.json").read_text())
    return str(lock["packages"][f"node_modules/{name}"]["version"])


def python_version(name: str) -> str:
    """The versions of a package that the tests take."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(rf'"{name}(>=[0-9.]+)[";]', text)
    assert found, name
    return found[1]


def missing_tests(clients: Sequence[Client]) -> list[str]:
    """Names in a ledger that no test has."""
    missing = []
    for client in clients:
        text = (TESTS / client.file).read_text()
        missing += [f"{client.file}: {name}" for name in client.tests if f"def {name}" not in text]
    return missing
