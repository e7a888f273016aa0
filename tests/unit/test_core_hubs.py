"""Hubs with a meaning of their own are made with settings that there are."""

import pytest

from gridwire.core.hubs import SINGLE_PARTITION, TEMPLATES
from gridwire.core.settings import HubSettings, with_changes


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_one_that_a_hub_can_have(name: str) -> None:
    settings = with_changes(HubSettings(), TEMPLATES[name])
    assert {field: getattr(settings, field) for field in TEMPLATES[name]} == TEMPLATES[name]


def test_hubs_of_one_partition_are_known_ones() -> None:
    assert set(TEMPLATES) >= SINGLE_PARTITION
