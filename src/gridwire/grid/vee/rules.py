"""The rules by name: what each checks or fills, by which formula, with which settings and quality code.

A rule's settings are a frozen dataclass; the default of a field is the default of the rule, its metadata the help and
the smallest value. `docs/reference/vee.md` is generated from this table.

Quality codes are CIM `system.category.sub`, system 3 being the one that manages meter data: category 5 doubts whether a
value is reasonable, 6 says that a check failed, 7 edited, 8 estimated, 11 derived. Numbers of sub-categories are
gridwire's own; they stand in no other table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final

CALIFORNIA: Final = "California VEE standards (CPUC D.98-12-080)"
PARITY: Final = "rule of the common meter data management systems; the formula is ours"


def setting(default: Any, help: str, least: float | None = None) -> Any:
    """A field of a rule's settings: its default, what it means, and the smallest value allowed."""
    return field(default=default, metadata={"help": help, "least": least})


@dataclass(frozen=True, slots=True)
class Settings:
    """What every rule has."""

    enabled: bool = setting(True, "whether the rule is applied")


# --- settings of validation rules --------------------------------------------


@dataclass(frozen=True, slots=True)
class DynamicComparison(Settings):
    """Daily energy against the average of reference days."""

    low_ratio: float = setting(0.2, "day's energy divided by the reference days' average, at least", 0)
    high_ratio: float = setting(4.0, "the same, at most", 1)
    floor_kwh: float = setting(1.0, "days whose energy and reference are both below this are not compared", 0)


@dataclass(frozen=True, slots=True)
class SiblingChannels(Settings):
    """Import and export of one place in the same interval."""

    share: float = setting(0.5, "smaller one of the two divided by the larger one, at most", 0)
    floor_kwh: float = setting(0.05, "energy below which neither counts", 0)


@dataclass(frozen=True, slots=True)
class HighLow(Settings):
    """An interval against the highest one of the days before."""

    high_times: float = setting(3.0, "multiple of the highest interval of the reference days, at most", 1)
    floor_kwh: float = setting(0.5, "energy of an interval below which nothing is too high", 0)
    low_kwh: float = setting(0.0, "energy of an interval, at least; 0: nothing is too low", 0)


@dataclass(frozen=True, slots=True)
class InactiveMeasurement(Settings):
    """Energy where the network model says that nobody is supplied."""

    floor_kwh: float = setting(0.0, "energy of an interval, at most", 0)


@dataclass(frozen=True, slots=True)
class IntervalSpike(Settings):
    """The day's highest interval against its third highest."""

    ratio: float = setting(1.8, "(highest - third highest) / third highest, at most", 0)
    floor_kwh: float = setting(0.5, "highest interval below which nothing is a spike", 0)
    references: bool = setting(True, "no spike when the reference days' highest interval was as high")


@dataclass(frozen=True, slots=True)
class Multiplier(Settings):
    """Daily energy that is a power of ten, or the meter's multiplier, away from the reference days' average."""

    tolerance: float = setting(0.35, "ratio of the ratio to that factor, less one, at most", 0)
    floor_kwh: float = setting(0.5, "larger one of the two below which nothing is compared", 0)


@dataclass(frozen=True, slots=True)
class ProlongedEstimation(Settings):
    """Nothing measured for days."""

    hours: float = setting(48.0, "hours without a measured interval, at most", 1)


@dataclass(frozen=True, slots=True)
class SumCheck(Settings):
    """Intervals between two register readings against their difference."""

    share: float = setting(0.02, "difference of the two divided by the registers' difference, at most", 0)
    floor_kwh: float = setting(1.0, "difference of the two, at most, whatever the share", 0)


@dataclass(frozen=True, slots=True)
class Zero(Settings):
    """A whole day of zeros where there was consumption before."""

    reference_kwh: float = setting(1.0, "average of the reference days below which zeros are no surprise", 0)


# --- settings of estimation rules --------------------------------------------


@dataclass(frozen=True, slots=True)
class Interpolation(Settings):
    """A straight line between the neighbours of a short gap."""

    gap_hours: float = setting(2.0, "longest gap that is interpolated", 0)


@dataclass(frozen=True, slots=True)
class Averaging(Settings):
    """The mean of the same time on the last days of the same kind."""

    days: int = setting(3, "reference days, the nearest ones", 1)
    days_least: int = setting(2, "with fewer of them the next rule is tried", 1)


@dataclass(frozen=True, slots=True)
class Profile(Settings):
    """The shape of the neighbours at the same transformer, scaled to the channel's own level."""

    members_least: int = setting(3, "measured neighbours below which there is no shape", 1)
    level_intervals: int = setting(8, "own measured intervals below which there is no level", 1)


@dataclass(frozen=True, slots=True)
class Scalar(Settings):
    """Registers that are missing, or that estimates are fitted to."""

    days: int = setting(3, "days whose mean growth is used", 1)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `bit` is its place in a mask of failed rules, or its number as a method of estimation."""

    name: str
    bit: int
    about: str
    formula: str
    source: str
    quality: str
    settings: type[Settings] = Settings

    @property
    def fields(self) -> tuple[Field[Any], ...]:
        """Settings in order."""
        return fields(self.settings)


def _numbered(rows: Iterator[tuple[Any, ...]]) -> tuple[Rule, ...]:
    return tuple(Rule(row[0], bit, *row[1:]) for bit, row in enumerate(rows))


VALIDATION: Final = _numbered(
    iter(
        (
            ("consecutive_interval", "the interval before this reading is missing",
             "due, measured, and the interval before it is due and not measured", PARITY, "3.6.1"),
            ("duplicate", "the same interval came again with another value and the same version",
             "value differs, version and channel do not; the last one holds. Exact repeats are no failure", PARITY,
             "3.6.2"),
            ("dynamic_comparison", "the day's energy is far from that of days like it",
             "day / mean of reference days outside of [low_ratio, high_ratio]; a whole, closed local day", CALIFORNIA,
             "3.5.3", DynamicComparison),
            ("sibling_channels", "a place imports and exports in the same interval",
             "min(import, export) / max(import, export) > share", PARITY, "3.5.4", SiblingChannels),
            ("final_measurement_replacement", "a later version changed a value that was known before",
             "a version above and another value", PARITY, "3.6.5"),
            ("high_low", "the interval is far above what was ever measured here, or too low",
             "energy > high_times x highest interval of the reference days; energy < low_kwh", CALIFORNIA, "3.5.6",
             HighLow),
            ("inactive_measurement", "energy where the network model says `active: false`",
             "energy > floor_kwh", CALIFORNIA, "3.5.7", InactiveMeasurement),
            ("interval_size", "a reading of another length than the channel's",
             "interval_s is neither the model's nor a day of 82,800, 86,400 or 90,000 s", PARITY, "3.6.8"),
            ("interval_spike", "one interval of the day stands out",
             "(highest - third highest) / third highest > ratio; a closed local day", CALIFORNIA, "3.5.9",
             IntervalSpike),
            ("multiplier", "energy is off by a power of ten or by the meter's multiplier",
             "day / mean of reference days within tolerance of 10^k or of the multiplier; or a reading was refused as "
             "implausible", PARITY, "3.5.10", Multiplier),
            ("negative", "energy or a register below zero; the reading is refused", "value < 0", PARITY, "3.6.11"),
            ("prolonged_estimation", "nothing was measured for long",
             "the run of intervals without a measured one reaches hours", PARITY, "3.6.12", ProlongedEstimation),
            ("missing_quantity", "a reading that the network model expects did not come in time",
             "due and not measured; due is older than the newest interval by grace_s", CALIFORNIA, "3.6.13"),
            ("sum_check", "intervals and registers disagree",
             "|sum of intervals - difference of registers| > max(share x difference, floor_kwh)", CALIFORNIA,
             "3.5.14", SumCheck),
            ("uom", "a reading of a type or unit that the place is not expected to send",
             "known place, type not among its `expects` nor a register, voltage or other momentary value", PARITY,
             "3.6.15"),
            ("zero", "a whole day of zeros at an active place",
             "every interval of a closed local day is 0 and the reference days' mean is above reference_kwh",
             CALIFORNIA, "3.5.16", Zero),
        )
    )
)  # fmt: skip
"""Rules that judge; a reading may fail several."""

ESTIMATION: Final = _numbered(
    iter(
        (
            ("gap_creation", "the interval is told as missing, without a value, when no rule has one",
             "a verdict `missing_quantity` and no estimate", PARITY, "3.8.1"),
            ("interpolation", "a gap of up to two hours is a straight line",
             "between the last interval before and the first after, neither of which may have had a power failure",
             CALIFORNIA, "3.8.2", Interpolation),
            ("averaging", "a longer gap is the average of reference days",
             "mean of the same local time on the nearest `days` days of the same kind (working day or not), measured "
             "and without a power failure", CALIFORNIA, "3.8.3", Averaging),
            ("proxy_day", "one day stands in for another",
             "the same local time on the nearest day of the same kind, else on the nearest day of any kind", PARITY,
             "3.8.4"),
            ("profile", "the neighbours' shape at the channel's own level",
             "sum of the neighbours' energy / sum of their means x own mean", PARITY, "3.8.5", Profile),
            ("proration", "energy between two registers is spread over the missing intervals evenly",
             "(register difference - measured) / missing", PARITY, "3.8.6"),
            ("scalar_profile", "energy between two registers is spread over the missing intervals by their estimates",
             "estimate x (register difference - measured) / sum of estimates, when nothing between them is measured",
             PARITY, "3.8.7"),
            ("adjust_from_scalar", "estimates are fitted to the registers around them",
             "estimate x (register difference - measured) / sum of estimates", PARITY, "3.8.8"),
            ("scalar_from_interval", "a missing register is the one before it plus the intervals since",
             "register + sum of intervals", PARITY, "3.8.9", Scalar),
            ("scalar_estimation", "a missing register is the one before it plus its mean growth",
             "register + days x mean daily growth", PARITY, "3.8.10", Scalar),
            ("subtractive_adjustment", "one of three channels is what the other two leave",
             "import = net + export", PARITY, "3.8.11"),
            ("outage", "known to be without power: zero, and flagged",
             "0 between a last gasp and the return of power; counts as actual", CALIFORNIA, "3.8.12"),
        )
    )
)  # fmt: skip
"""Rules that fill, tried in the order that `estimation.METHODS` says."""

BY_NAME: Final = {rule.name: rule for rule in (*VALIDATION, *ESTIMATION)}
"""Every rule."""
