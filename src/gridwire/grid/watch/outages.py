"""Outages: who is without supply, since when, and which device explains it.

    LAST_GASP, COMM_LOST, silence  ->  evidence of each usage point  ->  the devices that best explain it (`tree`)
    POWER_RESTORED, readings       ->  who is back, and who is still out below a device that is back (nested outages)

**Method**. For every usage point the log likelihood ratio of what was seen, out against supplied: a last gasp arrives
with the probability `r` when the supply fails, and almost never else; the absence of one says log(1 - r F(age)), where
F is how many of them have come after that age; a missing interval says -log(share that is usually missing); a reading
from after the start contradicts. A device out explains all below it for one prior. `r` is learned from outages that
ended. An outage is open from the first evidence on (estimated), and confirmed when half of its customers gave a sign.

Silence alone opens an outage of three customers or more, never in a failure of the communication, see `presence`.
Messages of known outages open nothing. The start is that of the earliest last gasp, or of the interval that is missing.

**Source**: last gasp after 45 s without voltage and the filter of bellwether meters are published practice; an
interruption longer than 5 min is sustained (IEEE 1366).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.meter_event import KINDS
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.areas import place_of
from gridwire.grid.watch.base import Detector, SeenEvents, SeenReadings, SeenWeather
from gridwire.grid.watch.presence import Presence, PresenceSettings
from gridwire.grid.watch.told import from_json, to_json
from gridwire.grid.watch.tree import CONTRADICTION, UNIT, Device, Tree

EPOCH_S: Final = 946_684_800
"""2000-01-01T00:00Z in seconds: times are kept as 32 bits of seconds since."""

SUSTAINED_S: Final = 300
"""Longest momentary interruption (IEEE 1366)."""

GASP_SHARE: Final = 0.01
SILENT_SHARE: Final = 0.1
"""A device is thought of when this share of its usage points gasped, or fell silent. It bounds the work, not the
result: with less, the other usage points speak against it."""

REST_INTERVALS: Final = 4
"""Intervals after the end of an outage in which customers that were not heard of are watched."""

_US: Final = 1_000_000
_GASP, _RESTORED, _COMM_LOST, _COMM_RESTORED = (
    KINDS.index(kind) for kind in ("LAST_GASP", "POWER_RESTORED", "COMM_LOST", "COMM_RESTORED")
)

_Units = NDArray[np.int32]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OutageSettings:
    """What can be set.

    Args:
        gasp_reliability: share of last gasps that arrive, to begin with; it is learned.
        bellwethers: usage points whose messages arrive nearly always.
        false_gasp: probability of a last gasp without an outage within `merge_s`.
        gasp_spread_s: time in which 63 % of the last gasps of an outage have arrived.
        priors: log odds that a device goes out within `merge_s`: usage point, feeder below a transformer,
            transformer, feeder above transformers, substation.
        nested_prior: the same of a device below one that has just come back.
        merge_s: last gasps this close in time may have one cause.
        young_s: how long after its opening an outage may still turn out to be another device's.
        single_wait_s: how long a lone last gasp must stand before it is told without another sign; 0: it is told when
            an interval is missing too, for meters send last gasps for nothing about as often as they are out alone.
        clock_s: how far clocks of meters may be off.
        restore_wait_s: how long after the first sign of supply others may give theirs.
        storm_gust_ms: gusts from which silence alone opens nothing, for `storm_s`.
        tell_s: changes of one outage are told this often at most.
    """

    gasp_reliability: float = 0.6
    bellwethers: tuple[str, ...] = ()
    false_gasp: float = 1e-4
    gasp_spread_s: float = 10.0
    priors: tuple[float, ...] = (-9.5, -8.0, -8.0, -8.0, -9.0)
    nested_prior: float = -7.0
    merge_s: int = 60
    young_s: int = 120
    single_wait_s: int = 0
    clock_s: int = 5
    restore_wait_s: int = 30
    silent_customers_min: int = 3
    storm_gust_ms: float = 25.0
    storm_s: int = 6 * 3600
    tell_s: int = 5
    presence: PresenceSettings = field(default_factory=PresenceSettings)


@dataclass(slots=True, eq=False)
class Outage:
    """One open outage. Times in seconds since 2000 are the grid's, those in microseconds the hub's."""

    node: int
    start_s: int
    opened_us: int
    score: float
    members: _Units
    by_silence: bool = False
    nested_in: str = ""
    told_us: int = 0
    face: tuple[Any, ...] = ()
    restoring_us: int = 0
    reviewed: tuple[Any, ...] = ()


@dataclass(slots=True, eq=False)
class Rest:
    """Customers of an outage that ended who have not been heard of: out for a reason of their own, or just unheard."""

    node: int
    start_s: int
    since_s: int
    told: Finding
    units: _Units


class Outages(Detector):
    """See the module. Memory: 22 bytes a usage point beside the tree."""

    name = "outages"

    def __init__(self, index: NetworkIndex, settings: OutageSettings | None = None) -> None:
        super().__init__(index)
        self.settings = settings or OutageSettings()
        n = len(index.unit_ids)
        self._tree = Tree(index)
        self._presence = Presence(n, index.interval_s, self.settings.presence)
        self._gasp_s = np.zeros(n, np.int32)  # last gasp, 0 none
        self._gasp_us = np.zeros(n, np.int64)  # when the hub took it
        self._on_s = np.zeros(n, np.int32)  # newest sign of supply
        self._sign = np.zeros(n, np.bool_)  # it was out itself: a last gasp, a missing interval or a restoration
        self._lost = np.zeros(n, np.bool_)  # the head-end lost it
        self._out = np.zeros(n, np.bool_)  # member of an open outage
        self._fresh = np.zeros(n, np.bool_)  # scratch: member of an outage that may still be another device's
        self._none = np.zeros(0, np.int32)
        self._open: list[Outage] = []
        self._rests: list[Rest] = []
        self._gasped: set[int] = set()  # candidates: last gasps that no outage explains yet
        self._hits, self._tries = 20 * self.settings.gasp_reliability, 20.0
        self._bellwether = _marked(index.unit_ids, self.settings.bellwethers)
        self._priors = np.array(self.settings.priors)
        self._storm_until_us = 0
        self._failure_s = 0
        self._dirty = False
        self._again_us = 0
        self._found: list[Finding] = []

    # -- what is seen -------------------------------------------------------------------------------------------

    def readings(self, seen: SeenReadings) -> None:
        """Intervals that came, and signs of supply: whoever measured something at the end of it had supply."""
        ends = (seen.ts_end_us // _US - EPOCH_S).astype(np.int32)
        regular = seen.interval_s == self.index.interval_s
        self._presence.take(seen.points[regular], ends[regular])
        on = seen.values > 0
        if on.any():
            points, at = seen.points[on], ends[on] - self.settings.clock_s
            if self._open or self._gasped:
                self._dirty |= bool(np.any(self._out[points] | (self._gasp_s[points] > self._on_s[points])))
            np.maximum.at(self._on_s, points, at)
            self._lost[points] = False

    def events(self, seen: SeenEvents) -> None:
        """Last gasps and restorations."""
        times = (seen.ts_us // _US - EPOCH_S).astype(np.int32)
        gasps = seen.kinds == _GASP
        if gasps.any():
            self._take_gasps(seen.points[gasps], times[gasps], seen.received_us[gasps])
        back = seen.kinds == _RESTORED
        if back.any():
            points = seen.points[back]
            if np.any((self._gasp_s[points] > self._on_s[points]) & ~self._out[points]):
                # They come together where a head-end delivers late: an outage that is over was one all the same.
                self._locate(int(seen.received_us.max()), False)
            np.maximum.at(self._on_s, seen.points[back], times[back])
            self._sign[seen.points[back]] |= self._out[seen.points[back]]
            self._dirty = True
        self._lost[seen.points[seen.kinds == _COMM_LOST]] = True
        self._lost[seen.points[seen.kinds == _COMM_RESTORED]] = False

    def _take_gasps(self, points: _Units, times: NDArray[np.int32], received_us: NDArray[np.int64]) -> None:
        fresh = times > self._on_s[points]
        points, times, received_us = points[fresh], times[fresh], received_us[fresh]
        new = self._gasp_s[points] <= self._on_s[points]  # a repeated one changes nothing
        points, times, received_us = points[new], times[new], received_us[new]
        self._gasp_s[points], self._gasp_us[points] = times, received_us
        self._sign[points] = True
        self._gasped.update(points.tolist())
        self._dirty |= bool(len(points))

    def weather(self, seen: SeenWeather) -> None:
        """A storm makes silence an unsure sign."""
        strong = np.nan_to_num(seen.wind_gust_ms) >= self.settings.storm_gust_ms
        if strong.any():
            until = int(seen.received_us[strong].max()) + self.settings.storm_s * _US
            self._storm_until_us = max(self._storm_until_us, until)

    # -- what is found ------------------------------------------------------------------------------------------

    def findings(self, now_us: int) -> list[Finding]:
        """Outages that opened, changed or ended."""
        due = self._presence.advance(now_us, lambda: self._out | self._sign)
        if due:
            self._tell_failure()
        if self._dirty or due or (self._again_us and now_us >= self._again_us):
            self._dirty, self._again_us = False, 0
            self._locate(now_us, due)
            if due:
                self._check_rests(now_us)
            self._restore(now_us)
            self._tell(now_us)
        found, self._found = self._found, []
        return found

    def _once_more(self, at_us: int) -> None:
        """Look again then, whether or not something comes."""
        self._again_us = min(self._again_us or at_us, at_us)

    # -- where --------------------------------------------------------------------------------------------------

    def _young(self, outage: Outage, now_us: int) -> bool:
        return now_us - outage.opened_us < self.settings.young_s * _US

    def _locate(self, now_us: int, due: bool) -> None:
        """Explain last gasps, and silence when an interval became due, together with outages that are young."""
        self._drop_answered()
        young = [outage for outage in self._open if self._young(outage, now_us) and not outage.restoring_us]
        for outage in young:
            self._fresh[outage.members] = True
        alone = np.array(sorted(self._gasped), np.int32)
        if len(alone) or sum(map(self._news, young)):
            parts = [alone, *(o.members[self._gasp_s[o.members] > self._on_s[o.members]] for o in young)]
            self._explain_gasps(np.unique(np.concatenate(parts)).astype(np.int32), now_us, young)
        if due and not self._presence.failed and now_us >= self._storm_until_us:
            silent = self._presence.fell_silent()
            silent = silent[~self._out[silent]]
            if len(silent):
                start = self._presence.due - self.index.interval_s + 1
                self._explain(silent, start, now_us, young, by_silence=True)
        for outage in (*young, *self._open):
            self._fresh[outage.members] = False

    def _explain_gasps(self, units: _Units, now_us: int, young: list[Outage]) -> None:
        """Those close in time may have one cause."""
        units = units[np.argsort(self._gasp_s[units], kind="stable")]
        cuts = np.flatnonzero(np.diff(self._gasp_s[units]) > self.settings.merge_s) + 1
        for cluster in np.split(units, cuts):
            if len(cluster):
                self._explain(cluster, int(self._gasp_s[cluster[0]]), now_us, young, by_silence=False)

    def _news(self, outage: Outage) -> bool:
        """Whether anybody under the outage gave another sign since it was last looked at."""
        members = outage.members
        face = (int(np.count_nonzero(self._sign[members])), int(self._on_s[members].max(initial=0)))
        changed = face != outage.reviewed
        outage.reviewed = face
        return changed

    def _drop_answered(self) -> None:
        """Forget lone last gasps of those who were seen with supply later."""
        units = np.array(sorted(self._gasped), np.int32)
        gone = units[(self._on_s[units] >= self._gasp_s[units]) | self._out[units]]
        self._gasped.difference_update(gone.tolist())
        self._sign[gone] = self._sign[gone] & self._out[gone]

    def _explain(self, evidence: _Units, start_s: int, now_us: int, young: list[Outage], *, by_silence: bool) -> None:
        told = np.array([outage.node for outage in young], np.int32)
        least = self.settings.silent_customers_min if by_silence else 1
        tops = self._tree.spans(evidence, SILENT_SHARE if by_silence else GASP_SHARE)
        devices = self._alone([top for top in tops if top < self._tree.units], start_s, now_us) if least < 2 else []
        for top in tops:
            if top >= self._tree.units and self._tree.count(top) >= least:
                llr = self._evidence(self._tree.below(top), start_s, now_us, by_silence)
                devices += self._tree.explain(top, llr, self._priors, told)
        for device in devices:
            if self._tree.count(device.node) >= least:
                self._take_device(device, start_s, now_us, young, by_silence)

    def _alone(self, tops: list[int], start_s: int, now_us: int) -> list[Device]:
        """Usage points with nobody near them that gasped: all at once, there may be many."""
        units = np.array(tops, np.int32)
        if not len(units):
            return []
        scores = self._evidence(units, start_s, now_us, by_silence=False) + self._priors[UNIT]
        found = scores > 0
        return [Device(*each) for each in zip(units[found].tolist(), scores[found].tolist(), strict=True)]

    def _reliability(self, units: _Units) -> _Floats:
        return np.where(self._bellwether[units], 0.98, min(0.98, self._hits / self._tries))

    def _evidence(self, units: _Units, start_s: int, now_us: int, by_silence: bool) -> _Floats:
        """Log likelihood ratio of each usage point, out against supplied."""
        settings, presence = self.settings, self._presence
        gasp = self._gasp_s[units]
        active = (gasp > self._on_s[units]) & (np.abs(gasp.astype(np.int64) - start_s) <= 10 * settings.merge_s)
        r = self._reliability(units)
        first_us = int(self._gasp_us[units[active]].min(initial=now_us))
        age_s = max(1.0, (now_us - first_us) / _US)
        arrived = 1.0 if by_silence else 1.0 - math.exp(-age_s / settings.gasp_spread_s)
        llr = np.where(active, np.log(r / settings.false_gasp), np.log1p(-r * arrived))
        missed = presence.silent(units) & (presence.due > start_s) & (not presence.failed)
        llr += np.where(missed, -math.log(presence.miss), 0.0)
        llr += np.where(self._lost[units] & ~active, 1.5, 0.0)
        if settings.single_wait_s:
            waited = now_us - self._gasp_us[units] >= settings.single_wait_s * _US
            llr += np.where(active & waited, 2.0, 0.0)
            if not waited[active].all():
                self._once_more(first_us + settings.single_wait_s * _US)
        if active.any() and now_us - first_us < 4 * settings.gasp_spread_s * _US:
            self._once_more(now_us + _US)  # those who have not gasped by then say more
        supplied = (self._on_s[units] > start_s) & ~active
        llr[supplied] = np.where(self._sign[units[supplied]] & self._out[units[supplied]], 0.0, CONTRADICTION)
        llr[self._out[units] & ~self._fresh[units]] = 0.0
        return llr

    def _take_device(self, device: Device, start_s: int, now_us: int, young: list[Outage], by_silence: bool) -> None:
        """Open an outage of the device, or go on with the one that is open; young ones it contradicts end."""
        for outage in self._open:
            if outage.node == device.node and not outage.restoring_us:
                outage.score = device.score
                self._claim(outage)
                return
        others = [
            outage for outage in young
            if self._tree.contains(device.node, outage.node) or self._tree.contains(outage.node, device.node)
        ]  # fmt: skip
        units = self._tree.below(device.node)
        for outage in others:
            if outage in self._open:
                start_s = min(start_s, outage.start_s) if self._tree.contains(device.node, outage.node) else start_s
                self._end(outage, now_us, {"part_of": f"{self._tree.kind(device.node)}/{self._tree.id(device.node)}"})
        gasps = self._gasp_s[units]
        active = gasps[(gasps > self._on_s[units]) & (gasps >= start_s - self.settings.merge_s)]
        start_s = start_s if others else int(active.min(initial=start_s if by_silence else 2**31 - 1))
        opened = Outage(device.node, start_s, now_us, device.score, units[:0], by_silence)
        self._open.append(opened)
        self._claim(opened)

    def _claim(self, outage: Outage) -> None:
        """Everybody under the device who is in no other outage and gave no sign of supply since it began."""
        units = self._tree.below(outage.node)
        mine = ~self._out[units] & (self._on_s[units] <= outage.start_s)
        outage.members = np.concatenate([outage.members, units[mine]])
        self._out[units[mine]] = True
        self._gasped.difference_update(units[mine].tolist())

    # -- back ---------------------------------------------------------------------------------------------------

    def _restore(self, now_us: int) -> None:
        for outage in list(self._open):
            self._drop_contradictions(outage)
            members = outage.members
            if not len(members):
                self._end(outage, now_us, {"unconfirmed": True})
                continue
            back = self._on_s[members] > np.maximum(self._gasp_s[members], outage.start_s)
            if not back.any():
                continue
            outage.restoring_us = outage.restoring_us or now_us
            waited = now_us - outage.restoring_us >= self.settings.restore_wait_s * _US
            if back.all():
                self._end(outage, now_us, {})
            elif waited:
                self._split(outage, back, now_us)
            else:
                self._once_more(outage.restoring_us + self.settings.restore_wait_s * _US)

    def _drop_contradictions(self, outage: Outage) -> None:
        """Members that sent readings all the time were never out: the outage is smaller, or another device's."""
        members = outage.members
        self._sign[members] |= self._presence.silent(members) & (self._presence.due > outage.start_s)
        never = (self._on_s[members] > outage.start_s) & ~self._sign[members]
        if never.any():
            self._out[members[never]] = False
            outage.members = members[~never]

    def _split(self, outage: Outage, back: NDArray[np.bool_], now_us: int) -> None:
        """Most are back: who is not, is out for another reason, or its message was lost."""
        units = self._tree.below(outage.node)
        place = np.isin(units, outage.members)
        is_back = np.isin(units, outage.members[back])
        presence = self._presence
        since_s = int(np.median(self._on_s[outage.members[back]]))
        missed = presence.silent(units) & (presence.due > since_s + self.index.interval_s) & (not presence.failed)
        llr = -np.log1p(-self._reliability(units)) + np.where(missed, -math.log(presence.miss), 0.0)
        llr[is_back] = CONTRADICTION
        llr[~place] = 0.0
        priors = np.full(len(self._priors), self.settings.nested_prior)
        still = self._tree.explain(outage.node, llr, priors, self._none)
        if any(device.node == outage.node for device in still):
            self._once_more(now_us + 10 * _US)
            return
        dark = [(d, self._tree.below(d.node)) for d in still]
        left = [(d, units[np.isin(units, outage.members) & (self._on_s[units] <= outage.start_s)]) for d, units in dark]
        gone = np.concatenate([u for _, u in left]) if left else outage.members[:0]
        name = self._id(outage)
        outage.members = outage.members[~np.isin(outage.members, gone)]
        self._end(outage, now_us, {"still_out_customers": len(gone)} if len(gone) else {})
        for device, members in left:
            if len(members):
                self._out[members] = True
                nested = Outage(device.node, outage.start_s, now_us, device.score, members, outage.by_silence, name)
                nested.restoring_us = 0
                self._open.append(nested)

    def _end(self, outage: Outage, now_us: int, why: dict[str, Any]) -> None:
        members = outage.members
        back = self._on_s[members] > np.maximum(self._gasp_s[members], outage.start_s)
        ends = np.maximum(self._on_s[members[back]], outage.start_s)
        ended_s = int(np.median(ends)) if len(ends) else outage.start_s
        minutes = (np.where(back, self._on_s[members], ended_s) - outage.start_s).clip(0).sum() / 60
        if "part_of" not in why and "unconfirmed" not in why:
            self._learn(outage)
            why = {
                **why,
                "customer_minutes": round(float(minutes), 1),
                "sustained": ended_s - outage.start_s > SUSTAINED_S,
            }
        finding = self._finding(outage, FindingState.CLOSED, why, ended_s)
        if outage.face or not why.keys() & {"part_of", "unconfirmed"}:
            self._found.append(finding)
        self._open.remove(outage)
        self._out[members] = False
        if "part_of" in why:
            self._gasped.update(members[self._gasp_s[members] > self._on_s[members]].tolist())
        if "part_of" not in why:
            self._sign[members] = False
            self._gasp_s[members] = 0
            if len(ends) and not back.all():
                rest = Rest(outage.node, outage.start_s, ended_s, finding, members[~back])
                self._rests.append(rest)

    def _check_rests(self, now_us: int) -> None:
        """An interval became due: who of the rest has not sent it is still out."""
        presence, interval_s = self._presence, self.index.interval_s
        for rest in list(self._rests):
            rest.units = rest.units[(self._on_s[rest.units] <= rest.start_s) & ~self._out[rest.units]]
            if not len(rest.units) or presence.due - rest.since_s > REST_INTERVALS * interval_s:
                self._rests.remove(rest)
                continue
            since = np.maximum(presence.ends[rest.units], rest.since_s)
            missing = np.clip(-((since - presence.due) // interval_s), 0, 2)  # a part of an interval counts as one
            if missing.any() and not presence.failed:
                self._open_nested(rest, missing, now_us)

    def _open_nested(self, rest: Rest, missing: NDArray[Any], now_us: int) -> None:
        units = self._tree.below(rest.node)
        llr = np.full(len(units), CONTRADICTION)
        place = np.searchsorted(np.sort(units), rest.units)
        rows = np.argsort(units, kind="stable")[place]
        llr[rows] = missing * -math.log(self._presence.miss) - np.log1p(-self._reliability(rest.units))
        llr[rows[missing == 0]] = 0.0
        priors = np.full(len(self._priors), self.settings.nested_prior)
        silent = rest.units[missing > 0]
        for device in self._tree.explain(rest.node, llr, priors, self._none):
            members = silent[np.isin(silent, self._tree.below(device.node))]
            self._out[members] = True
            self._sign[members] = True
            self._open.append(Outage(device.node, rest.start_s, now_us, device.score, members, nested_in=rest.told.id))
            self._tell_less(rest, len(members))

    def _tell_less(self, rest: Rest, count: int) -> None:
        """The outage that ended had fewer customers: some are counted in the one that goes on."""
        known = rest.told.evidence
        minutes = (rest.since_s - rest.start_s) / 60 * count
        evidence = {
            **known,
            "customers": known["customers"] - count,
            "still_out_customers": known.get("still_out_customers", 0) + count,
            "customer_minutes": round(known["customer_minutes"] - minutes, 1),
        }
        rest.told = replace(rest.told, evidence=evidence)
        self._found.append(rest.told)

    def _learn(self, outage: Outage) -> None:
        """The share of last gasps that arrive."""
        if len(outage.members) >= 5 and not outage.by_silence and not outage.nested_in:
            hits = np.count_nonzero(self._gasp_s[outage.members])
            self._hits = 0.98 * self._hits + hits
            self._tries = 0.98 * self._tries + len(outage.members)

    # -- telling ------------------------------------------------------------------------------------------------

    def _tell(self, now_us: int) -> None:
        for outage in self._open:
            face = self._face(outage)
            if face == outage.face:
                continue
            if outage.face and now_us - outage.told_us < self.settings.tell_s * _US:
                self._once_more(outage.told_us + self.settings.tell_s * _US)
                continue
            state = FindingState.CHANGED if outage.face else FindingState.OPENED
            outage.face, outage.told_us = face, now_us
            self._found.append(self._finding(outage, state, {}, None))

    def _face(self, outage: Outage) -> tuple[Any, ...]:
        """What a customer of the finding would call news."""
        members = outage.members
        back = np.count_nonzero(self._on_s[members] > np.maximum(self._gasp_s[members], outage.start_s))
        return (len(members), int(np.count_nonzero(self._sign[members])), int(back))

    def _id(self, outage: Outage) -> str:
        return self._finding(outage, FindingState.OPENED, {}, None).id

    def _finding(self, outage: Outage, state: FindingState, more: dict[str, Any], ended_s: int | None) -> Finding:
        members = outage.members
        customers, signs, back = self._face(outage)
        gasps = int(np.count_nonzero(self._gasp_s[members] > 0))
        sure = 1 / (1 + math.exp(-min(20.0, max(-20.0, outage.score / 4))))
        storm = {"storm": True} if self._storm_until_us > outage.opened_us else {}
        evidence = {
            "customers": customers, "customers_confirmed": signs, "customers_restored": back, "last_gasps": gasps,
            "customers_under_device": self._tree.count(outage.node), "by_silence": outage.by_silence,
            "confirmed": signs * 2 >= max(1, customers), **storm, **more,
        }  # fmt: skip
        if self._tree.level[outage.node] == UNIT:
            evidence |= place_of(self.index, outage.node)
        if outage.nested_in:
            evidence["nested_in"] = outage.nested_in
        return Finding(
            kind="outage",
            subject_kind=self._tree.kind(outage.node),
            subject=self._tree.id(outage.node),
            started_us=(outage.start_s + EPOCH_S) * _US,
            ended_us=None if ended_s is None else (max(ended_s, outage.start_s) + EPOCH_S) * _US,
            severity=Severity.WARNING if self._tree.level[outage.node] == UNIT else Severity.CRITICAL,
            confidence=min(0.99, sure * (0.8 if outage.by_silence else 1.0)),
            detector=self.name,
            state=state,
            evidence=evidence,
        )

    def _tell_failure(self) -> None:
        """The communication with many failed, or is back."""
        presence = self._presence
        if presence.failed == bool(self._failure_s):
            return
        started = self._failure_s or presence.due
        silent = int(np.count_nonzero(presence.silent()))
        self._found.append(
            Finding(
                kind="communication.lost", subject_kind="network", subject="network", detector=self.name,
                started_us=(started + EPOCH_S) * _US, severity=Severity.WARNING, confidence=0.9,
                ended_us=None if presence.failed else (presence.due + EPOCH_S) * _US,
                state=FindingState.OPENED if presence.failed else FindingState.CLOSED,
                evidence={"silent_usage_points": silent, "usage_points": len(presence.ends)},
            )
        )  # fmt: skip
        self._failure_s = presence.due if presence.failed else 0

    # -- snapshots ----------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        notes = {
            "hits": self._hits, "tries": self._tries, "storm": self._storm_until_us, "failure": self._failure_s,
            "dirty": self._dirty, "again": self._again_us, "gasped": sorted(self._gasped),
            "open": [{**asdict(outage), "members": len(outage.members)} for outage in self._open],
            "rests": [_plain_rest(rest) for rest in self._rests],
        }  # fmt: skip
        members = [outage.members for outage in self._open]
        return {
            "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
            "members": np.concatenate(members) if members else np.zeros(0, np.int32),
            "gasp_s": self._gasp_s, "gasp_us": self._gasp_us, "on_s": self._on_s, "sign": self._sign,
            "lost": self._lost, "out": self._out, **self._presence.to_arrays(),
        }  # fmt: skip

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot."""
        notes = json.loads(arrays["notes"].tobytes())
        for name in ("gasp_s", "gasp_us", "on_s", "sign", "lost", "out"):
            getattr(self, f"_{name}")[:] = arrays[name]
        self._presence.from_arrays(arrays)
        self._hits, self._tries = notes["hits"], notes["tries"]
        self._storm_until_us, self._failure_s = notes["storm"], notes["failure"]
        self._dirty, self._again_us, self._gasped = notes["dirty"], notes["again"], set(notes["gasped"])
        self._rests = [_rest(known) for known in notes["rests"]]
        at = 0
        self._open = []
        for known in notes["open"]:
            count = known.pop("members")
            lists: Iterable[str] = ("face", "reviewed")
            known |= {name: tuple(known[name]) for name in lists}
            self._open.append(Outage(**known, members=arrays["members"][at : at + count].astype(np.int32)))
            at += count


def _marked(ids: Sequence[str], chosen: Collection[str]) -> NDArray[np.bool_]:
    """Which ids are chosen."""
    found = frozenset(chosen)
    return np.fromiter((id in found for id in ids), np.bool_, len(ids)) if found else np.zeros(len(ids), np.bool_)


def _plain_rest(rest: Rest) -> dict[str, Any]:
    """For a snapshot."""
    return {
        "node": rest.node, "start_s": rest.start_s, "since_s": rest.since_s, "told": to_json(rest.told).decode(),
        "units": rest.units.tolist(),
    }  # fmt: skip


def _rest(known: dict[str, Any]) -> Rest:
    told, units = from_json(known["told"].encode()), np.array(known["units"], np.int32)
    return Rest(known["node"], known["start_s"], known["since_s"], told, units)
