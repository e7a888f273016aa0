"""Which transformers are neighbours, and what a usage point hangs on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import NetworkIndex


def place_of(index: NetworkIndex, unit: int) -> dict[str, str]:
    """Evidence that says where a usage point is, for readers who do not have the network model."""
    return {
        "transformer": index.transformer_ids[index.transformer_of_unit[unit]],
        "feeder": index.feeder_ids[index.feeder_of_unit[unit]],
    }


def areas(index: NetworkIndex) -> tuple[NDArray[np.int32], int]:
    """The neighbourhood of each transformer: its feeder where that feeds several, else its substation."""
    n = len(index.transformer_ids)
    substations = {name: i for i, name in enumerate(dict.fromkeys(index.substation_of_transformer))}
    area = np.array([substations[name] for name in index.substation_of_transformer], np.int32)
    shared = index.transformer_of_feeder[index.feeder_of_unit] < 0
    area[index.transformer_of_unit[shared]] = len(substations) + index.feeder_of_unit[shared]
    return area, len(substations) + len(index.feeder_ids) if n else 0
