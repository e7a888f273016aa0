"""The entity file of Azure's Event Hubs emulator: what it says, and what is wrong with it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridwire import entities
from gridwire.core.errors import GridwireError, InvalidName, InvalidSetting
from gridwire.entities import Entity


def text(*hubs: dict[str, Any], **namespace: Any) -> bytes:
    each = {"Type": "EventHub", "Name": "emulatorns1", "Entities": list(hubs), **namespace}
    return json.dumps({"UserConfig": {"NamespaceConfig": [each], "LoggingConfig": {"Type": "File"}}}).encode()


def test_hubs_and_groups() -> None:
    hubs = [
        {
            "Name": "eh1",
            "PartitionCount": "2",
            "ConsumerGroups": [{"Name": "cg1"}, {"Name": "cg1"}, {"Name": "$Default"}],
        },
        {"name": "eh2", "partitionCount": 3, "Unknown": True},
        {"Name": "eh3"},
    ]
    found = entities.parse(b"\xef\xbb\xbf" + text(*hubs))
    assert found == [Entity("eh1", 2, ("cg1", "$Default")), Entity("eh2", 3, ()), Entity("eh3", None, ())]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "has no UserConfig"),
        (text({"PartitionCount": 1}), "has no Name"),
        (text({"Name": "../x"}), "is not allowed"),
        (text({"Name": "__audit"}), "platform's own"),
        (text({"Name": "a", "PartitionCount": "many"}), "PartitionCount must be"),
        (text({"Name": "a", "PartitionCount": 0}), "PartitionCount must be"),
        (text({"Name": "a"}, {"Name": "a"}), "comes twice"),
        (text({"Name": "a", "ConsumerGroups": [{"Name": ""}]}), "consumer group's name"),
        (text({"Name": "a"}, Type="ServiceBus"), "only EventHub"),
        (b" " * (entities.FILE_BYTES_MAX + 1), "at most"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises((InvalidSetting, InvalidName), match=reason):
        entities.parse(data)
    file = tmp_path / "Config.json"
    file.write_bytes(data)
    with pytest.raises(InvalidSetting, match=r"Config\.json"):
        entities.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"none\.json"):
        entities.load(tmp_path / "none.json")


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["UserConfig", "NamespaceConfig", "Entities", "Name", "ConsumerGroups", "PartitionCount"]), s,
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_give_entities_or_a_reason(data: bytes) -> None:
    with contextlib.suppress(GridwireError):
        entities.parse(data)
