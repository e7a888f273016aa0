"""Dead letters of functions, and the trace context that goes with them."""

from __future__ import annotations

from gridwire.core.letters import letter
from gridwire.functions.batches import Piece
from gridwire.functions.context import trace_in

__all__ = ["letter", "trace_of"]


def trace_of(piece: Piece) -> tuple[str, str]:
    """Trace context of a piece's first event, if it carries one."""
    part = piece.parts[0]
    return trace_in(part.headers(0)) if part.header_counts[0] else ("", "")
