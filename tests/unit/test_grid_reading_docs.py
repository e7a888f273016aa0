"""The reference page says what the code does."""

import json
import re
from pathlib import Path

from gridwire.grid import network
from gridwire.grid.formats import registry
from gridwire.grid.reading_types import markdown_table

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "readings.md").read_text()


def blocks():
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def test_the_table_of_reading_types():
    assert markdown_table() in PAGE


def test_the_example_of_a_reading():
    (item,) = registry.get("json").decode(json.dumps(blocks()[0]).encode())
    assert item.readings[0].usage_point == "LV1.101 Load 1"


def test_the_example_of_a_network():
    assert network.from_json(json.dumps(blocks()[1]).encode()).transformers[0].rated_kva == 160.0


def test_every_format_is_described():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text()
    assert [name for name in registry.NAMES if f"| `{name}` |" in page] == list(registry.NAMES)


def test_the_example_of_weather():
    (item,) = registry.get("weather-json").decode(json.dumps(blocks()[-1]).encode())
    assert item.weather[0].wind_gust_ms == 8.2
