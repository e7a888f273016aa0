"""The VEE stage as a worker runs it, see `gridwire.grid.worker`."""

from __future__ import annotations

from typing import Final

from gridwire.core.hubs import METER_EVENTS
from gridwire.grid.lane import Stage
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
