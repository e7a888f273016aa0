"""Settings: order of the sources, checks, advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridwire import config
from gridwire.cli.durations import duration_ms, duration_text, size_bytes
from gridwire.core.errors import InvalidSetting


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "gridwire.toml"
    file.write_text('kafka_port = 1\nhttp_port = 2\ndata = "from-file"\n')
    settings = config.load({"kafka_port": "3"}, {"GRIDWIRE_KAFKA_PORT": "4", "GRIDWIRE_HTTP_PORT": "5"}, file)
    assert (settings.kafka_port, settings.http_port, settings.data, settings.partitions) == (3, 5, "from-file", 4)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"kafka_port": "99999"}, "kafka_port must be port"),
        ({"kafka_port": "x"}, "kafka_port must be port"),
        ({"partitions": "0"}, "partitions must be partitions"),
        ({"partitionz": 1}, "did you mean 'partitions'"),
        ({"host": "10.0.0.1"}, "insecure"),
        ({"host": "example.org"}, "insecure"),
        ({"data": ""}, "data must be directory"),
    ],
)
def test_wrong_values_say_what_is_right(flags: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidSetting, match=told):
        config.load(flags, {})


def test_unknown_environment_is_refused_but_not_the_tests_own() -> None:
    config.load({}, {"GRIDWIRE_TEST_ANYTHING": "1", "GRIDWIRE_URL": "http://x", "PATH": "/"})
    with pytest.raises(InvalidSetting, match="GRIDWIRE_DURABILTY"):
        config.load({}, {"GRIDWIRE_DURABILTY": "os"})


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("= nonsense")
    with pytest.raises(InvalidSetting, match="is not TOML"):
        config.load({}, {}, tmp_path / "x.toml")
    with pytest.raises(InvalidSetting, match="cannot read"):
        config.load({}, {}, tmp_path / "missing.toml")


def test_off_and_any_loopback_are_accepted() -> None:
    settings = config.load({"kafka_port": "off", "host": "::1"}, {})
    assert settings.kafka_port == config.OFF
    assert config.load({"host": "0.0.0.0", "insecure_i_understand": True}, {}).host == "0.0.0.0"


@pytest.mark.parametrize(("text", "ms"), [("7d", 604_800_000), ("90m", 5_400_000), ("250ms", 250), ("forever", -1)])
def test_durations_are_read_and_written(text: str, ms: int) -> None:
    assert duration_ms(text) == ms
    assert duration_ms(duration_text(ms)) == ms


def test_sizes_are_read_and_nonsense_is_refused() -> None:
    assert (size_bytes("10g"), size_bytes("512MiB"), size_bytes("7"), size_bytes("unlimited")) == (
        10 * 1024**3,
        512 * 1024**2,
        7,
        -1,
    )
    for wrong in ("", "x", "10q", "-5"):
        with pytest.raises(InvalidSetting):
            size_bytes(wrong)
        with pytest.raises(InvalidSetting):
            duration_ms(wrong)
