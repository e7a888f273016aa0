"""The key file of a data directory: what keys and secrets in the control journal are sealed with."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from gridwire.auth.keys import KEY_BYTES, Sealer
from gridwire.core.errors import GridwireError

KEY_FILE: Final = "secret.key"
"""Its name in the data directory, where the setting `secret_file` says no other."""


def write_secret(path: Path, data: bytes) -> None:
    """A new file only its owner reads, there for good when this returns."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_there(path: Path) -> bool:
    """Whether there is a key file that says something."""
    return path.exists() and path.stat().st_size > 0


def sealer(path: Path, *, make: bool = False) -> Sealer:
    """What seals and opens with a key file; `make`: a new one where there is none. Raises GridwireError."""
    if not is_there(path):
        if not make:
            raise GridwireError(f"{path} is missing: copy it from where the secret was said, or restore it")
        write_secret(path, secrets.token_bytes(KEY_BYTES))
    return Sealer(path.read_bytes())
