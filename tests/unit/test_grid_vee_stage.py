"""The VEE stage takes no memory that is not there: a model with too many channels is passed over, and that is said."""

from __future__ import annotations

from gridwire.broker.port import ColumnBatch
from gridwire.cli.checks import judged_findings
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.core.hubs import READINGS
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.rehearsal import NETWORK, SAID
from gridwire.grid.vee.pipeline import VeePipeline
from gridwire.grid.vee.stage import VEE, NotJudged, up_to

CHANNELS = 12


def batch() -> ColumnBatch:
    data = bytes(encode([Event(value.encode(), None, (), 0) for value in SAID[READINGS]]))
    (columns,) = decode(data, 0, len(data), from_offset=0).columns
    return ColumnBatch(READINGS, 3, columns, len(SAID[READINGS]))


def test_a_model_that_fits_is_judged() -> None:
    assert isinstance(up_to(CHANNELS, VEE).make(NETWORK, LoadsSettings(), 0, None), VeePipeline)


def test_a_larger_one_is_passed_over_and_told() -> None:
    pipeline = up_to(CHANNELS - 1, VEE).make(NETWORK, LoadsSettings(), 0, None)
    assert isinstance(pipeline, NotJudged)
    assert pipeline.take([batch()]) == {(READINGS, 3): len(SAID[READINGS])}
    assert pipeline.outputs(0, lambda hub: 1) == []
    assert pipeline.counters() == {"vee_channels_not_judged": CHANNELS}
    pipeline.from_arrays(pipeline.to_arrays())
    judged = up_to(CHANNELS, VEE).make(NETWORK, LoadsSettings(), 0, None)
    assert judged.fingerprint != pipeline.fingerprint


def test_doctor_says_so() -> None:
    told = 'gridwire_part_count{part="vee",name="vee_channels_not_judged"} 5000000.0\n'
    (finding,) = judged_findings("# HELP x\n" + told)
    assert (finding.verdict, finding.what) == ("warn", "vee")
    assert "5,000,000 channels" in finding.found
    assert "76.3 GiB" in finding.advice
    assert not list(judged_findings('gridwire_part_count{part="vee",name="vee_readings"} 7\n'))
