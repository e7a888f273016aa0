"""Versions of the network model, as the command line finds and reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridwire.cli.client import HubClient
from gridwire.cli.durations import moment
from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.core.hubs import NETWORK

if TYPE_CHECKING:
    from gridwire.grid.network import Network

VERSIONS_MAX: Final = 10_000
NO_MODEL: Final = "no network model yet: `gridwire network import simbench 1-LV-rural1--0-sw` publishes one"


@dataclass(frozen=True, slots=True)
class Version:
    """A version as `/v1/grid/networks` tells it. `valid_to`: None, until further notice, or it was replaced."""

    name: str
    valid_from: str
    valid_to: str | None
    in_effect: bool
    first: bool
    published: str
    partition: int
    first_offset: int
    offset: int
    transformers: int
    feeders: int
    usage_points: int

    def holds(self, time: str) -> bool:
        """Whether it is the one of a time; the first one also holds before its own."""
        at = moment(time)
        begun = self.first or moment(self.valid_from) <= at
        return self.in_effect and begun and (self.valid_to is None or at < moment(self.valid_to))


def versions(client: HubClient, limit: int = VERSIONS_MAX) -> list[Version]:
    """The newest versions, the newest first, with those that were replaced. Raises GridwireError: there is none."""
    rows = client.get("/v1/grid/networks", limit=limit)["networks"]
    if not rows:
        raise GridwireError(NO_MODEL)
    return [Version(**{name: row[name] for name in Version.__slots__}) for row in rows]


def holding(known: list[Version], time: str) -> Version:
    """The version of a time. Raises InvalidSetting: it is no time."""
    return next(version for version in known if version.holds(time))


def chosen(known: list[Version], text: str) -> Version:
    """The version that a person means: its offset as `network list` tells it, or a time at which it holds.

    Raises:
        GridwireError: there is no such version. InvalidSetting: neither a number nor a time.
    """
    if not text.isdecimal():
        try:
            return holding(known, text)
        except InvalidSetting:
            raise InvalidSetting(f"{text!r} is neither the offset of a version nor a time with an offset") from None
    for version in known:
        if version.offset == int(text):
            return version
    raise GridwireError(f"no version of the network model has the offset {text}: `gridwire network list` tells them")


def model_of(client: HubClient, version: Version) -> Network:
    """The model itself. Raises GridwireError when it is no longer whole in its hub."""
    from gridwire.grid.network_parts import Assembly

    assembly = Assembly()
    for event in client.stored(NETWORK, version.partition, version.first_offset):
        found = assembly.take(event.value)
        if event.offset == version.offset and found is not None:
            return found
        if event.offset >= version.offset:
            break
    raise GridwireError(f"the network model at offset {version.offset} is no longer whole in {NETWORK}")


def changes(client: HubClient, known: list[Version], limit: int) -> dict[int, dict[str, int]]:
    """What changed with each of the newest versions in effect, by its offset; the first one has nothing before it."""
    from gridwire.grid.network_diff import NetworkDiff

    told: dict[int, dict[str, int]] = {}
    after: tuple[Version, Network] | None = None
    for version in [each for each in known if each.in_effect][: limit + 1]:
        model = model_of(client, version)
        if after is not None:
            told[after[0].offset] = NetworkDiff(model, after[1]).counts()
        after = (version, model)
    return told


def spoken(counts: dict[str, int]) -> str:
    """Changes as a person reads them: `3 usage points moved, 1 transformer added`."""
    said = []
    for name, count in counts.items():
        *thing, did = name.split("_")
        noun = " ".join(thing)
        if count:
            said.append(f"{count} {noun.removesuffix('s') if count == 1 else noun} {did}")
    return ", ".join(said) or "nothing hangs elsewhere"


def as_json(version: Version, counts: dict[str, int] | None) -> dict[str, Any]:
    """A version for `-o json`; `changes` is null where there is nothing to compare with."""
    return {name: getattr(version, name) for name in Version.__slots__} | {"changes": counts}
