"""State that is arrays under names: what of an object goes into a snapshot, and how it comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray


def arrays_of(owner: object, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays of these attributes."""
    return {name: getattr(owner, name) for name in names}


def take_over(owner: object, names: Iterable[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put what `arrays_of` gave into the arrays of an object made for the same network.

    Raises:
        ValueError: an array has another shape. KeyError: one is missing.
    """
    for name in names:
        own = getattr(owner, name)
        if arrays[name].shape != own.shape:
            raise ValueError(f"snapshot of another network: {name} is {arrays[name].shape}, not {own.shape}")
        own[...] = arrays[name]
