"""Cumulative counts, look by look, as evidence; added up by the tallies of a real release. Pure: no I/O."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from operators.core.errors import ConfigurationError
from operators.core.traffic import Counters, EdgeReading, Row
from operators.judge.evidence import Arm, Evidence, Pairs, Period
from operators.judge.tally import Tally
from operators.rollout.delayed.pairs import BlockSums, Sums

_ARMS = ("stable", "canary")
_IN_ROW = {
    "requests": "units",
    "failed": "failed_units",
    "slow": "slow_units",
    "failed_first": "failed_first",
    "slow_first": "slow_first",
}
_COUNTS = tuple(_IN_ROW)
_PAIRS = ("total", "stable_only_wrong", "canary_only_wrong")
_LEAST = 1e-6  # of a weight that is not 0
_MOST = 10**15  # of what can be counted
_KEYS = ("t", "weight", *_ARMS, "pairs")
Counts = dict[str, int]


class Looks:
    """The looks so far. What was gained since the look before belongs to a look's weight.

    A count that is not there, or is null or NaN, is not known at that look.
    """

    def __init__(self) -> None:
        self.t = -math.inf
        self.block_s: float | None = None  # length of a block: pairs that come within it count as one
        self.step_began = 0.0
        self.with_pairs = False  # at any look so far
        self.with_arms = False
        self.weight = 0.0
        self._shown: dict[str, Counts] = {arm: {} for arm in _ARMS}  # the last that is known
        self._tally = Tally.begin(self._counters())  # of the weight that is in force
        self._unknown: dict[str, set[str]] = {arm: set() for arm in _ARMS}  # at this look
        self._spoiled: dict[str, set[str]] = {arm: set() for arm in _ARMS}  # gains that two weights may share
        self._earlier: list[Period] = []
        self._pairs_shown: Counts = {}
        self._pair_sums = BlockSums(1 + len(_PAIRS))
        self._pairs_known = False
        self._began = 0.0

    @property
    def looked(self) -> bool:
        """Whether there was a look."""
        return self.t > -math.inf

    def add(self, line: object) -> None:
        """Add the counts of one line to what the judge gets.

        :param line: the JSON object
        :raises ConfigurationError: it is not a look
        """
        look = _mapping(line, "the line", _KEYS)
        t, weight = _number(look, "t"), _number(look, "weight")
        if t < self.t:
            raise ConfigurationError(
                f"`t` is {t:g}, before the look above it at {self.t:g}; looks come in order of time"
            )
        if weight != 0 and not _LEAST <= weight <= 1 - _LEAST:
            hint = f"; for {weight:g} % write {weight / 100:g}" if 1 < weight < 100 else ""
            raise ConfigurationError(f"`weight` is {weight:g}; it is the canary's share, from 0 to below 1{hint}")
        arms = {arm: _counts(look.get(arm), f"`{arm}`", _COUNTS) for arm in _ARMS}
        pairs = _counts(look.get("pairs"), "`pairs`", _PAIRS)
        if weight != self.weight or not self.looked:
            self._end_step()
            self._began = self._began if self.looked else t
            self.weight, self.step_began = weight, self.t if self.looked else t
        self.t = t
        self.with_arms |= any(arms.values())
        self.with_pairs |= look.get("pairs") is not None
        for arm, counts in arms.items():
            self._shown[arm] = _before(self._shown[arm], counts) | counts
            self._unknown[arm] = set(_COUNTS) - set(counts)
        self._tally = self._tally.advance(self._counters())
        self._take_pairs(pairs)

    def evidence(self) -> Evidence:
        """Return all evidence so far."""
        newest = (
            [Period(weight=self.weight, stable=self._arm("stable"), canary=self._arm("canary"))] if self.weight else []
        )
        return Evidence(periods=(*self._earlier, *newest), pairs=self._pairs() if self._pairs_known else None)

    def _counters(self) -> Counters:
        rows = tuple(
            Row(version=arm, arm=arm, **{_IN_ROW[key]: count for key, count in self._shown[arm].items()})
            for arm in _ARMS
        )
        return Counters(edges=(EdgeReading(edge="", since="", rows=rows),))

    def _arm(self, arm: str) -> Arm:
        gained = self._tally.gained.get((arm, arm, 0), Row(version=arm, arm=arm))
        known = {
            key: getattr(gained, _IN_ROW[key]) for key in _COUNTS if key not in self._unknown[arm] | self._spoiled[arm]
        }
        return Arm(**{"requests": 0, **known})

    def _end_step(self) -> None:
        """Keep the bad events of the period that ends: a share needs only the newest period's counts."""
        if self.weight:
            arms = {name: self._arm(name) for name in _ARMS}
            firsts = {
                name: Arm(failed_first=arm.first("failed"), slow_first=arm.first("slow")) for name, arm in arms.items()
            }
            self._earlier.append(Period(weight=self.weight, **firsts))
        for arm in _ARMS:
            # A count that is unknown now and known later may have been gained at this weight or at the next. If an arm has never
            # shown anything, all that it shows counts as new.
            self._spoiled[arm] = self._unknown[arm] if self._shown[arm] else set()
        self._tally = Tally.begin(self._tally.now)

    def _take_pairs(self, counts: Counts) -> None:
        before = _before(self._pairs_shown, counts)
        self._pairs_shown = before | counts
        gains = [self._pairs_shown.get(key, 0) - before.get(key, 0) for key in _PAIRS]
        block = int((self.t - self._began) // self.block_s) if self.block_s else 0
        self._pair_sums.add(block, (sum(gains), *gains))
        self._pairs_known = {"stable_only_wrong", "canary_only_wrong"} <= set(counts)

    def _pairs(self) -> Pairs:
        whole, *blocks = (_named(sums) for sums in (self._pair_sums.state().whole, *self._pair_sums.passed))
        return Pairs.model_validate({**whole, "blocks": blocks})


def _named(sums: Sums) -> dict[str, float]:
    """Name the sums of pairs; the number of all may be left out."""
    _, total, stable, canary = sums
    return dict(zip(_PAIRS, (max(total, stable + canary), stable, canary), strict=True))


def _before(shown: Counts, counts: Counts) -> Counts:
    """Return what had been shown when the counters that give these counts began: nothing if one has gone back."""
    return {} if any(count < shown.get(key, 0) for key, count in counts.items()) else shown


def _mapping(value: object, where: str, allowed: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} is not a JSON object")
    for key in value:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), list(allowed), 1, 0.5)
            meant = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(allowed)}"
            raise ConfigurationError(f"{where} has the key `{key}`; {meant}")
    return value


def _counts(value: object, where: str, allowed: Iterable[str]) -> dict[str, int]:
    """Return the counts that are known."""
    if value is None:
        return {}
    given = _mapping(value, where, allowed)
    counts = {key: count for key, number in given.items() if (count := _count(number, f"{where}: `{key}`")) is not None}
    for key, whole in (
        ("failed", "requests"),
        ("slow", "requests"),
        ("failed_first", "failed"),
        ("slow_first", "slow"),
    ):
        if key in counts and whole in counts and counts[key] > counts[whole]:
            raise ConfigurationError(f"{where}: `{key}` is {counts[key]}, more than `{whole}`, {counts[whole]}")
    return counts


def _count(number: object, where: str) -> int | None:
    if number is None or (isinstance(number, float) and not math.isfinite(number)):
        return None
    whole = isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= _MOST
    if not isinstance(number, int | float) or not whole or number != int(number):
        raise ConfigurationError(f"{where} is {number!r}; it counts from the start, so write a whole number from 0 on")
    return int(number)


def _number(look: Mapping[str, Any], key: str) -> float:
    number = look.get(key)
    if isinstance(number, bool) or not isinstance(number, int | float) or not -_MOST <= number <= _MOST:
        raise ConfigurationError(f"`{key}` is {'missing' if number is None else repr(number)}; write a number")
    return float(number)
