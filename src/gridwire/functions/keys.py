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

from gridwire.core.errors import GridwireError
from gridwire.functions.model import Function

KEYS_FILE: Final = "keys.json"


class UnknownKey(GridwireError):
    """No function of that name, or a key that has no name."""


class Keys:
    """Keys kept in one file that only its owner reads; made at the first start, and for functions that come later.

    Whoever renews a key writes the file; a host that runs notices it with the next call.
    """

    def __init__(self, path: Path, functions: Iterable[Function] = ()) -> None:
        self.path = path
        self._read_ns = 0
        found = self._read()
        for function in functions:
            self.functions.setdefault(function.name, {"default": _new()})
        if found != self.as_dict():  # whoever only looks writes nothing: a host may be about to
            self._save()

    def _read(self) -> dict[str, Any]:
        """Take over what the file has, and make what it lacks. Returns the file's."""
        found: dict[str, Any] = {}
        if self.path.exists():
            self._read_ns = self.path.stat().st_mtime_ns
            found = json.loads(self.path.read_text())
        self.master: str = found.get("master") or _new()
        self.system: str = found.get("system") or _new()
        self.host: dict[str, str] = dict(found.get("host") or {"default": _new()})
        self.functions: dict[str, dict[str, str]] = {
            name: dict(named) for name, named in (found.get("functions") or {}).items()
        }
        return found

    def as_dict(self) -> dict[str, Any]:
        """All of them, as they are shown to whoever manages the app."""
        return {"master": self.master, "system": self.system, "host": self.host, "functions": self.functions}

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".new")
        with os.fdopen(os.open(scratch, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.as_dict(), file, indent=2)
        scratch.replace(self.path)
        self._read_ns = self.path.stat().st_mtime_ns

    def renew(self, scope: str, name: str = "default", function: str = "") -> None:
        """Make a key anew, or one of a new name; the one before opens nothing any more.

        Args:
            scope: `master`, `system`, `host` (opens all functions) or `function`. name: of keys of the last two.

        Raises:
            UnknownKey: no such function, or no name.
        """
        if scope in ("master", "system"):
            setattr(self, scope, _new())
        elif not name:
            raise UnknownKey("a key of a host or function has a name")
        elif scope == "host":
            self.host[name] = _new()
        elif function not in self.functions:
            known = ", ".join(sorted(self.functions)) or "none"
            raise UnknownKey(f"no HTTP function {function!r} has run here: those with keys are {known}")
        else:
            self.functions[function][name] = _new()
        self._save()

    def allow(self, given: str, level: str, function: str | None) -> bool:
        """Whether a key opens a function of some level."""
        if level == "ANONYMOUS":
            return True
        if self.path.exists() and self.path.stat().st_mtime_ns != self._read_ns:
            self._read()
        able = [self.master]
        if level == "SYSTEM":
            able.append(self.system)
        if level == "FUNCTION":
            able += [*self.host.values(), *(self.functions.get(function or "", {}).values())]
        return any(secrets.compare_digest(given.encode(), key.encode()) for key in able)


def _new() -> str:
    return secrets.token_urlsafe(32)
