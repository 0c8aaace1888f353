"""Traffic of single requests: of callers who send unequally much, or of a recording. A unit counts once, as at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from operators.judge.phases import Phase
from operators.planning.simulation.feeds import (
    ARM_COLUMNS,
    CANARY_BAD,
    CANARY_NEW,
    CANARY_REQUESTS,
    COLUMNS,
    FAILED,
    FAILED_FIRST,
    REQUESTS,
    SLOW,
    SLOW_FIRST,
    STEADY,
    Pattern,
    Weather,
)
from operators.planning.simulation.scenarios import Scenario
from operators.planning.simulation.traffic_model import TrafficModel


@dataclass(frozen=True)
class Requests:
    """Some requests in the order of their times, each an array.

    :param at_s: seconds since the release began
    :param unit: number of the caller
    :param failed: whether stable fails it
    :param slow: whether stable answers it slowly
    """

    at_s: Any
    unit: Any
    failed: Any
    slow: Any


class Source(Protocol):
    """Where single requests come from."""

    units: int

    def between(self, begin_s: float, end_s: float) -> Requests:
        """Return the requests between two times; each call begins where the one before ended."""
        ...


class ZipfSource:
    """Callers whose requests follow Zipf's law.

    :param rng: numpy's generator
    """

    def __init__(self, rng: Any, load: TrafficModel, weather: Weather) -> None:
        import numpy as np

        assert load.units is not None
        self.units = load.units
        self._rng, self._load, self._weather = rng, load, weather
        weights = np.arange(1, load.units + 1) ** -load.skew
        self._below = weights.cumsum() / weights.sum()

    def between(self, begin_s: float, end_s: float) -> Requests:
        """Draw them second by second."""
        import numpy as np

        rng, load = self._rng, self._load
        edges: Any = np.append(np.arange(begin_s, end_s, 1.0), end_s)
        factors, outages = self._weather.factors(edges[:-1])
        counts = rng.poisson(load.rate_per_s * np.diff(edges) * factors)
        second: Any = np.repeat(np.arange(len(counts)), counts)
        total = len(second)
        at_s = np.sort(edges[second] + rng.random(total) * np.diff(edges)[second])
        unit = np.minimum(np.searchsorted(self._below, rng.random(total)), self.units - 1)
        failed = rng.random(total) < 1 - (1 - load.error_rate) * (1 - outages[second])
        return Requests(at_s, unit, failed, rng.random(total) < load.slow_rate)


@dataclass(frozen=True)
class Recording:
    """Recorded requests. At the end the recording begins again.

    :param requests: times from 0, rising; units from 0
    :param lasts_s: its length in seconds
    """

    requests: Requests
    lasts_s: float
    units: int

    def load(self) -> TrafficModel:
        """Return the traffic as a plan needs it."""
        count = len(self.requests.at_s)
        return TrafficModel(
            rate_per_s=count / self.lasts_s,
            error_rate=min(float(self.requests.failed.mean()), 0.999),
            slow_rate=min(float(self.requests.slow.mean()), 0.999),
            units=self.units if 1 < self.units < count else None,
            skew=0.0,
        )


class RecordedSource:
    """A recording, played from one of its moments on.

    :param offset_s: where in the recording the release begins
    """

    def __init__(self, recording: Recording, offset_s: float) -> None:
        self.units = recording.units
        self._recording, self._offset_s = recording, offset_s

    def between(self, begin_s: float, end_s: float) -> Requests:
        """Cut the requests out of the recording."""
        import numpy as np

        recorded, lasts_s = self._recording.requests, self._recording.lasts_s
        begin, end = begin_s + self._offset_s, end_s + self._offset_s
        pieces, times = [], []
        turn = int(begin // lasts_s)
        while turn * lasts_s < end:
            low, high = (int(np.searchsorted(recorded.at_s, at_s - turn * lasts_s)) for at_s in (begin, end))
            pieces.append(np.arange(low, high))
            times.append(recorded.at_s[low:high] + turn * lasts_s - self._offset_s)
            turn += 1
        where = np.concatenate(pieces)
        return Requests(np.concatenate(times), recorded.unit[where], recorded.failed[where], recorded.slow[where])


@dataclass
class RequestFeed:
    """Counts single requests as the edge does: by bucket of the unit, each unit once.

    :param rng: numpy's generator
    """

    rng: Any
    load: TrafficModel
    scenario: Scenario
    source: Source
    _bucket: Any = field(init=False)
    _victim: Any = field(init=False)
    _ever: dict[int, Any] = field(init=False)  # column -> units that it has counted in the release
    _phase: Phase = field(init=False)
    _known: dict[tuple[int, int], Any] = field(init=False)
    _total: Any = field(init=False)
    _marked: list[tuple[int, Any, Any]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        import numpy as np

        units = self.source.units
        self._bucket, self._victim = self.rng.random(units), self.rng.random(units) < self.scenario.victims
        self._ever = {column: np.zeros(units, dtype=bool) for column in (FAILED_FIRST, SLOW_FIRST, CANARY_NEW)}

    def enter(self, phase: Phase) -> None:
        """Begin a phase: its distinct units are counted from 0."""
        import numpy as np

        self._phase, self._total = phase, np.zeros(COLUMNS, dtype=np.int64)
        if phase.kind == "watch":  # the watch counts the first bad events anew
            for column in (FAILED_FIRST, SLOW_FIRST):
                self._ever[column][:] = False
        self._known = {
            (arm, column): np.zeros(self.source.units, dtype=bool)
            for arm in (0, 1)
            for column in (REQUESTS, FAILED, SLOW)
        }

    def leave(self, looks: int) -> None:
        """End a phase; forget the units that were counted after its end."""
        for column, units, look in self._marked:
            self._ever[column][units[look >= looks]] = False

    def block(self, at_s: float, looks: int, look_s: float) -> Any:
        """Assign, answer and count the requests of the next looks."""
        import numpy as np

        requests = self.source.between(at_s, at_s + looks * look_s)
        look = np.minimum(((requests.at_s - at_s) / look_s).astype(int), looks - 1)
        arms = self._assign(requests)
        bad = [(requests.failed, requests.slow), self._canary_answers(requests)]
        gains: Any = np.zeros((looks, COLUMNS), dtype=np.int64)
        self._marked = []
        for arm, mine in enumerate(arms):
            failed, slow = bad[arm]
            for column, event in ((REQUESTS, mine), (FAILED, mine & failed), (SLOW, mine & slow)):
                first = self._first(requests.unit, event, self._known[arm, column])
                gains[:, arm * ARM_COLUMNS + column] = np.bincount(look[first], minlength=looks)
            if self._phase.kind == "shadow":  # its bad events are no part of the canary's evidence
                own = arm * ARM_COLUMNS
                gains[:, own + FAILED_FIRST : own + ARM_COLUMNS] = gains[:, own + FAILED : own + SLOW + 1]
        if self._phase.kind != "shadow":
            for column, kind in ((FAILED_FIRST, 0), (SLOW_FIRST, 1)):
                events = [mine & bad[arm][kind] for arm, mine in enumerate(arms)]
                self._count_first_ever(gains, requests.unit, look, events, column)
            new = self._first(requests.unit, arms[1], self._ever[CANARY_NEW])
            self._marked.append((CANARY_NEW, requests.unit[new], look[new]))
            gains[:, CANARY_NEW] = np.bincount(look[new], minlength=looks)
        gains[:, CANARY_REQUESTS] = np.bincount(look[arms[1]], minlength=looks)
        gains[:, CANARY_BAD] = sum(np.bincount(look[arms[1] & kind], minlength=looks) for kind in bad[1])
        totals = gains.cumsum(axis=0) + self._total
        self._total = totals[-1]
        return totals

    def _assign(self, requests: Requests) -> tuple[Any, Any]:
        """Return which requests go to stable, and which to the canary; a request that a shadow gets a copy of goes to both."""
        phase, bucket = self._phase, self._bucket[requests.unit]
        canary = bucket < phase.canary_share
        if phase.kind == "shadow":
            return bucket >= 0, canary
        return ~canary & (bucket < phase.canary_share + phase.stable_share), canary

    def _canary_answers(self, requests: Requests) -> tuple[Any, Any]:
        """Return which requests the new version fails, and which it answers slowly: stable's bad ones, and more."""
        import numpy as np

        fails, slow = self.scenario.probabilities(
            self.load,
            since_s=requests.at_s,
            share=self._phase.exposed_share,
            victim=self._victim[requests.unit],
        )
        count = len(requests.at_s)
        more_fails = (fails - self.load.error_rate) / (1 - self.load.error_rate)
        more_slow = (slow - self.load.slow_rate) / (1 - self.load.slow_rate)
        return (
            np.asarray(requests.failed | (self.rng.random(count) < more_fails)),
            np.asarray(requests.slow | (self.rng.random(count) < more_slow)),
        )

    def _count_first_ever(self, gains: Any, unit: Any, look: Any, events: list[Any], column: int) -> None:
        """Count the units that have their first bad event in the release now, for the arm that caused it."""
        import numpy as np

        first = self._first(unit, events[0] | events[1], self._ever[column])
        self._marked.append((column, unit[first], look[first]))
        on_canary = events[1][first]
        gains[:, column] += np.bincount(look[first[~on_canary]], minlength=len(gains))
        gains[:, ARM_COLUMNS + column] += np.bincount(look[first[on_canary]], minlength=len(gains))

    @staticmethod
    def _first(unit: Any, event: Any, known: Any) -> Any:
        """Return the position of each unit's first event, for units that had none before, and remember these units."""
        import numpy as np

        where = np.flatnonzero(event)
        where = where[~known[unit[where]]]
        _, first = np.unique(unit[where], return_index=True)
        positions = where[first]
        known[unit[positions]] = True
        return positions


def zipf_feed(rng: Any, load: TrafficModel, scenario: Scenario, pattern: Pattern = STEADY) -> RequestFeed:
    """Return the feed of callers who send by Zipf's law."""
    return RequestFeed(rng, load, scenario, ZipfSource(rng, load, Weather(rng, pattern, scenario)))


def recorded_feed(rng: Any, recording: Recording, scenario: Scenario) -> RequestFeed:
    """Return the feed of a recording that begins at a random moment."""
    source = RecordedSource(recording, float(rng.uniform(0, recording.lasts_s)))
    return RequestFeed(rng, recording.load(), scenario, source)
