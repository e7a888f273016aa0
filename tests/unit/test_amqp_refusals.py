"""Who may do what over AMQP depends on where he is; what is refused leaves nothing behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gridwire.auth.acl import Binding, Operation, Pattern, Permission, ResourceType
from gridwire.auth.model import Action, Identity
from gridwire.core.errors import MessageTooLarge
from gridwire.heads.amqp.rights import Keyring
from gridwire.wire.amqp import records
from gridwire.wire.amqp.records import BATCH_FORMAT, Records, data_section


def test_a_right_for_one_address_is_none_elsewhere() -> None:
    here = Binding(ResourceType.TOPIC, "h", Pattern.LITERAL, "User:ann", "10.0.0.1", Operation.WRITE, Permission.ALLOW)
    ann = Identity("ann", "scram", (), bindings=(here,))
    access: Any = SimpleNamespace(generation=0)
    assert Keyring(access, "10.0.0.1:4711", None).grants(ann, (Action.SEND, "h"))
    assert not Keyring(access, "10.0.0.2:4711", None).grants(ann, (Action.SEND, "h"))


def test_a_batch_refused_in_its_middle_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    filling = Records()
    plain = data_section(data_section(b"first"))
    filling.add_delivery(plain, 0, len(plain), BATCH_FORMAT)
    before = list(filling.parts), filling.count, filling.size

    def refuse(*_: object) -> None:
        raise MessageTooLarge("by any rule")

    monkeypatch.setattr(records, "event", refuse)
    mixed = plain + data_section(b"\x00\x53\x77\x40")
    with pytest.raises(MessageTooLarge):
        filling.add_delivery(mixed, 0, len(mixed), BATCH_FORMAT)
    assert (filling.parts, filling.count, filling.size) == before
