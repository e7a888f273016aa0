"""The VEE stage as a worker runs it, see `gridwire.grid.worker`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.core.hubs import METER_EVENTS
from gridwire.grid.lane import NothingToRestate, Pipeline, Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.network import Network, channels_of, digest
from gridwire.grid.readings import READINGS_HUB
from gridwire.grid.vee.events import VERDICTS_HUB
from gridwire.grid.vee.pipeline import VeePipeline

VEE: Final = Stage("vee", (READINGS_HUB,), (READINGS_HUB, VERDICTS_HUB), VeePipeline, creates=(VERDICTS_HUB,))
"""From readings to verdicts and estimates, each partition by itself."""

VEE_WHOLE: Final = Stage(
    "vee-whole", (READINGS_HUB, METER_EVENTS), (READINGS_HUB, VERDICTS_HUB), VeePipeline,
    creates=(VERDICTS_HUB, METER_EVENTS),
)  # fmt: skip
"""The same where one worker has whole hubs: it knows of outages from meter events as well."""

CHANNEL_BYTES: Final = 16_384
"""What is held of a channel of quarter hours."""

log = structlog.get_logger(__name__)


def up_to(channels: int, stage: Stage) -> Stage:
    """The stage, which judges nothing while the model has more channels: memory that is not there ends a hub."""
    return replace(stage, make=partial(_make, channels))


def _make(most: int, network: Network, settings: LoadsSettings, generation: int, part: int | None) -> Pipeline:
    count = channels_of(network)
    if count <= most:
        return VeePipeline(network, settings, generation, part)
    log.warning(
        "readings are not judged: the model has too many channels", channels=count, vee_channels=most,
        needs_gib=round(count * CHANNEL_BYTES / 2**30, 1),
    )  # fmt: skip
    return NotJudged(network, count)


class NotJudged:
    """In place of a `VeePipeline`: passes everything over, and says of how many channels."""

    def __init__(self, network: Network, channels: int) -> None:
        self.fingerprint = f"vee off {digest(network).hex()}"
        self.state = NothingToRestate()
        self._channels = channels

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Nothing is applied, and all is behind."""
        return {(batch.hub, batch.partition): batch.next_offset for batch in batches}

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Nothing."""

    def idle(self, now_ms: int) -> None:
        """Nothing."""

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """None."""
        return []

    def counters(self) -> dict[str, int]:
        """How many channels are not judged."""
        return {"vee_channels_not_judged": self._channels}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing."""
        return {"nothing": np.zeros(0)}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Nothing."""
