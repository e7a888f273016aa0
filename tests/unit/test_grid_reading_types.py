"""The registry of reading types: unambiguous, stable, found by every spelling."""

import re

import pytest

from gridwire.grid import reading_types as rt

# Ids are stored with every reading in the lake: a change here breaks stored data.
STABLE = {
    "import_kwh": 1, "export_kwh": 2, "import_register_kwh": 10, "import_register_t1_kwh": 11,
    "export_register_kwh": 20,
    "power_import_kw": 40, "power_export_l3_kw": 47, "voltage_l1_v": 60, "current_l3_a": 65, "gas_register_m3": 80,
}  # fmt: skip


def test_every_name_names_one_type():
    names = [name for row in rt.READING_TYPES for name in (row.alias, row.cim, *row.cim_accepted, *row.obis)]
    assert len(names) == len(set(names)) == len(rt.IDS_BY_NAME)
    assert len({row.id for row in rt.READING_TYPES}) == len(rt.READING_TYPES)


def test_ids_never_change():
    assert {alias: rt.BY_ALIAS[alias].id for alias in STABLE} == STABLE
    assert all(0 < row.id < 2**15 for row in rt.READING_TYPES)


@pytest.mark.parametrize("row", rt.READING_TYPES, ids=lambda row: row.alias)
def test_rows_are_well_formed(row):
    assert re.fullmatch(r"\d+(\.\d+){17}", row.cim)
    assert re.fullmatch(r"[a-z0-9_]+", row.alias)
    for name in (row.alias, row.cim, *row.cim_accepted, *row.obis):
        assert rt.find(name) is row


def test_the_codes_of_public_examples():
    quarter_hour = "0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0"
    assert rt.find(quarter_hour).alias == "import_kwh"
    assert rt.find("0.0.7.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0").alias == "import_kwh"  # hourly
    assert rt.find("0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.73.0").unit == "kvarh"


@pytest.mark.parametrize(
    ("code", "alias"),
    [
        ("1-0:1.8.0", "import_register_kwh"),
        ("1-0:1.8.0*255", "import_register_kwh"),
        ("1-1:2.8.2", "export_register_t2_kwh"),
        ("1-0:32.7.0", "voltage_l1_v"),
        ("1-0:71.7.0.255", "current_l3_a"),
    ],
)
def test_obis_codes_of_any_channel(code, alias):
    assert rt.find(code).alias == alias


@pytest.mark.parametrize("name", ["", "import", "1-0:1.8.9", "1-0:1.8", "9-0:1.8.0", "0.0.2.4", "IMPORT_KWH", "\x00"])
def test_what_is_no_type(name):
    assert rt.find(name) is None
