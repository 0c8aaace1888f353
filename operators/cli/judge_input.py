"""Cumulative counts, look by look, as evidence. Pure: no I/O."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from operators.core.errors import ConfigurationError
from operators.judge.evidence import Arm, Evidence, PairCounts, Pairs, Period

_ARMS = ("stable", "canary")
_COUNTS = ("requests", "failed", "slow", "failed_first", "slow_first")
_PAIRS = ("stable_only_wrong", "canary_only_wrong", "total")
_LEAST = 1e-6  # of a weight that is not 0
_MOST = 10**15  # of what can be counted
_KEYS = ("t", "weight", *_ARMS, "pairs")


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
        self._shown: dict[str, dict[str, int]] = {arm: {} for arm in _ARMS}  # the last that is known
        self._gained: dict[str, dict[str, int]] = {arm: {} for arm in _ARMS}  # at the weight that is in force
        self._unknown: dict[str, set[str]] = {arm: set() for arm in _ARMS}  # at this look
        self._spoiled: dict[str, set[str]] = {arm: set() for arm in _ARMS}  # gains that two weights may share
        self._before: dict[
            float, dict[str, dict[str, int]]
        ] = {}  # weight -> arm -> bad events, of weights that have gone
        self._pairs_shown: dict[str, int] = {}
        self._pairs_gained: dict[str, int] = {}
        self._pairs_known = False
        self._began = 0.0
        self._block = 0
        self._block_began: dict[str, int] = {}  # what had been gained when the block began
        self._blocks: list[PairCounts] = []

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
            self._fold()
            self._began = self._began if self.looked else t
            self.weight, self.step_began = weight, self.t if self.looked else t
        self.t = t
        self.with_arms |= any(arms.values())
        for arm, counts in arms.items():
            self._take(arm, counts)
        self._take_pairs(pairs, given=look.get("pairs") is not None)

    def evidence(self) -> Evidence:
        """Return all that has been shown."""
        periods = [
            Period(weight=weight, stable=Arm(**arms["stable"]), canary=Arm(**arms["canary"]))
            for weight, arms in self._before.items()
        ]
        if self.weight > 0:
            newest = {arm: Arm(**{key: self._known(arm, key) for key in _COUNTS if key != "requests"}) for arm in _ARMS}
            whole = {
                arm: value.model_copy(update={"requests": self._known(arm, "requests") or 0})
                for arm, value in newest.items()
            }
            periods.append(Period(weight=self.weight, **whole))
        return Evidence(periods=tuple(periods), pairs=self._pairs() if self._pairs_known else None)

    def _pairs(self) -> Pairs:
        return Pairs(**self._pairs_gained, blocks=tuple(self._blocks))

    def _known(self, arm: str, key: str) -> int | None:
        if key in self._unknown[arm] or key in self._spoiled[arm]:
            return None
        return self._gained[arm].get(key)

    def _take(self, arm: str, counts: Mapping[str, int]) -> None:
        _gain(self._shown[arm], self._gained[arm], counts)
        self._unknown[arm] = set(_COUNTS) - set(counts)

    def _take_pairs(self, counts: Mapping[str, int], *, given: bool) -> None:
        self.with_pairs |= given
        block = int((self.t - self._began) // self.block_s) if self.block_s else 0
        if block != self._block:
            gained = {key: self._pairs_gained.get(key, 0) - self._block_began.get(key, 0) for key in _PAIRS}
            gained["total"] = max(gained["total"], gained["stable_only_wrong"] + gained["canary_only_wrong"])
            self._blocks += [PairCounts(**gained)] if gained["total"] else []
            self._block, self._block_began = block, dict(self._pairs_gained)
        _gain(self._pairs_shown, self._pairs_gained, counts)
        self._pairs_known = {"stable_only_wrong", "canary_only_wrong"} <= set(counts)

    def _fold(self) -> None:
        """Put the period that ends with the ones before: of these, only bad events count, and only if both arms' are known."""
        for kind in ("failed", "slow"):
            first = {arm: self._first(arm, kind) for arm in _ARMS}
            if self.weight <= 0 or None in first.values():
                continue
            sums = self._before.setdefault(self.weight, {arm: {} for arm in _ARMS})
            for arm, count in first.items():
                sums[arm][f"{kind}_first"] = sums[arm].get(f"{kind}_first", 0) + (count or 0)
        for arm in _ARMS:
            # What is not known now, and comes later, may have been gained at this weight or at the next. Of an arm that has
            # never shown anything, everything is taken for new.
            self._spoiled[arm] = self._unknown[arm] if self._shown[arm] else set()
            self._gained[arm] = {}

    def _first(self, arm: str, kind: str) -> int | None:
        first = self._known(arm, f"{kind}_first")
        return self._known(arm, kind) if first is None else first


def _gain(shown: dict[str, int], gained: dict[str, int], counts: Mapping[str, int]) -> None:
    if any(value < shown.get(key, 0) for key, value in counts.items()):
        shown.clear()  # the counter began anew: what it shows is all new
    for key, value in counts.items():
        gained[key] = gained.get(key, 0) + value - shown.get(key, 0)
        shown[key] = value


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
