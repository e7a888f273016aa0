"""What a detector has found and not been asked for yet, as an array of its snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gridwire.grid.findings import Finding
from gridwire.grid.watch.told import from_json, to_json


def pack(findings: Sequence[Finding]) -> NDArray[Any]:
    """Findings as bytes."""
    return np.frombuffer(orjson.dumps([to_json(finding).decode() for finding in findings]), np.uint8)


def unpack(array: NDArray[Any]) -> list[Finding]:
    """Findings of `pack`. Raises ValueError when they are none."""
    return [from_json(text.encode()) for text in orjson.loads(array.tobytes())]
