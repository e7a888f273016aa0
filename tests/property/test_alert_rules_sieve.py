"""What is passed over without a look would have changed nothing: a rule with its sieve finds what one without finds."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gridwire.broker.alert_rules import ThresholdRule
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.grid.rules.subjects import Subjects
from gridwire.grid.rules.threshold import Threshold

VALUES = st.one_of(
    st.sampled_from([0, 1, 1.0, 0.1, 0.30000000000000004, 0.3, -1, 2**53, 1e300, -1e-300]),
    st.floats(-2, 2, allow_nan=False),
    st.sampled_from([None, "0.3", "text", True, [], {}, 10**25]),
)
SUBJECTS = st.one_of(st.sampled_from(["a", "b", '\u00e9"', "c"]), st.sampled_from([None, 5, "", {}]))
DOCUMENTS = st.one_of(
    st.fixed_dictionaries({}, optional={"v": VALUES, "s": SUBJECTS, "t": st.sampled_from(["x", "y", 1, None])}).map(
        json.dumps
    ),
    st.sampled_from(["", "{", "[1]", "5", "null", '{"v":1e999,"s":"a"}', '{"v":1,"v":0,"s":"a"}']),
)
CALM = st.fixed_dictionaries(
    {"v": st.sampled_from([0.1, 0.3, 0.5, 1]), "s": st.sampled_from(["a", "b"]), "t": st.sampled_from(["x", "y"])}
).map(json.dumps)


@given(
    batches=st.one_of(
        st.lists(st.lists(DOCUMENTS, min_size=1, max_size=12), max_size=4),
        st.lists(st.lists(CALM, min_size=1, max_size=12), max_size=4),
    ),
    op=st.sampled_from([">", ">=", "<", "<=", "=", "!="]),
    value=st.sampled_from([0.0, 0.3, 1.0]),
    subject=st.sampled_from(["", "s"]),
    where=st.sampled_from(["", "t = x", "t = 'x' and v < 5"]),
    for_count=st.sampled_from([1, 2]),
)
def test_the_sieve_hides_nothing(
    batches: list[list[str]], op: Any, value: float, subject: str, where: str, for_count: int
) -> None:
    rule = ThresholdRule(
        name="r", hub="h", field="v", op=op, value=value, subject=subject, where=where, for_count=for_count, quiet_s=9
    )
    sieved, plain = (Threshold(rule, Subjects.fresh(rule, 1)) for _ in range(2))
    plain._sieve = None
    time_ms = 0
    for documents in batches:
        events = [
            Event(document.encode(), None, (), time_ms + 1000 * place) for place, document in enumerate(documents)
        ]
        time_ms += 20_000
        data = bytes(batch.encode(events))
        for columns in decode(data, 0, len(data), from_offset=0).columns:
            for each in (sieved, plain):
                each.take(0, columns, 10**12)
    assert [each.finding for each in sieved.subjects.take_told()] == [
        each.finding for each in plain.subjects.take_told()
    ]
    assert dict(sieved.subjects.take_changed()).keys() == dict(plain.subjects.take_changed()).keys()
    assert sieved.subjects.held == plain.subjects.held
