"""The demo utility: SimBench's six low-voltage grids as one network, with its measured quarter hours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from msgspec import structs

from gridwire.grid.network import Network
from gridwire.grid.profiles import QuarterHours, load_profiles
from gridwire.grid.simbench import DEMO_CODES, import_simbench

NAME: Final = "Demo utility"
"""Name of the network model."""

START_INTERVAL: Final = 14_592
"""Where a new demo starts: 1 June, 00:00 local standard time. Sun and load both show within two minutes."""

VALID_FROM: Final = "2016-01-01T00:00:00+01:00"
"""From when on the network model holds: the beginning of its readings."""

METERS: Final = {
    "K8EG004046395507": "LV1.101 Load 1",
    "2222ABCD123456789": "LV1.101 Load 1",
    "3960221976967177082151037881335713": "LV1.101 Load 2",
    "4819243993373755377509728609491464": "LV1.101 Load 2",
    "00000000000000": "LV1.101 Load 3",
    "000000000000": "LV1.101 Load 3",
    "6970631402614476": "LV1.101 Load 4",
    "7340734073407340": "LV1.101 Load 5",
    "7359992892587665": "LV1.101 Load 6",
    "5706567000000000": "LV1.101 Load 7",
}
"""Where the meters of `frames/` are installed, gas meters at the house they belong to."""


@dataclass(frozen=True, slots=True)
class Utility:
    """A network model and the energy of its usage points, in the model's order."""

    network: Network
    profiles: QuarterHours


@dataclass(frozen=True, slots=True)
class FrameFile:
    """A file of meter frames: its name, the format to decode it with, its bytes."""

    name: str
    format: str
    data: bytes


def build() -> Utility:
    """The demo utility, some 490 loads and 44 generators under six transformers.

    Raises:
        SimbenchUnavailable: the package simbench is not installed.
    """
    grids = import_simbench(DEMO_CODES, name=NAME)
    return Utility(structs.replace(grids.network, valid_from=VALID_FROM), load_profiles(grids))


def frame_files() -> Iterator[FrameFile]:
    """The meter frames that come with gridwire, by name: the damaged ones among them too."""
    for entry in sorted(files("gridwire.demo").joinpath("frames").iterdir(), key=lambda entry: entry.name):
        format = entry.name.partition("-")[0]
        if format in ("dsmr", "han"):
            yield FrameFile(entry.name, format, entry.read_bytes())
