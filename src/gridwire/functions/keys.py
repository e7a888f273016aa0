"""Keys of HTTP functions: who may call what.

    ANONYMOUS   nobody is asked
    FUNCTION    the function's own key, a host key, or the master key
    ADMIN       the master key; also for `/admin`

A key comes as the header `x-functions-key` or the query parameter `code`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from gridwire.functions.model import Function

KEYS_FILE: Final = "keys.json"


class Keys:
    """Keys kept in one file that only its owner reads; made at the first start, and for functions that come later."""

    def __init__(self, path: Path, functions: Iterable[Function]) -> None:
        self.path = path
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.master: str = found.get("master") or secrets.token_urlsafe(32)
        self.system: str = found.get("system") or secrets.token_urlsafe(32)
        self.host: dict[str, str] = found.get("host") or {"default": secrets.token_urlsafe(32)}
        self.functions: dict[str, dict[str, str]] = found.get("functions") or {}
        for function in functions:
            self.functions.setdefault(function.name, {"default": secrets.token_urlsafe(32)})
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"master": self.master, "system": self.system, "host": self.host, "functions": self.functions}
        scratch = self.path.with_suffix(".new")
        with os.fdopen(os.open(scratch, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file, indent=2)
        scratch.replace(self.path)

    def allow(self, given: str, level: str, function: str | None) -> bool:
        """Whether a key opens a function of some level."""
        if level == "ANONYMOUS":
            return True
        able = [self.master]
        if level == "SYSTEM":
            able.append(self.system)
        if level == "FUNCTION":
            able += [*self.host.values(), *(self.functions.get(function or "", {}).values())]
        return any(secrets.compare_digest(given.encode(), key.encode()) for key in able)
