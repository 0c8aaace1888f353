"""The counts that are expected of the edge at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from operators.judge.phases import Phase
from operators.planning.simulation.traffic_model import TrafficModel

PLANNED = ("failures", "slow")  # guards whose evidence depends on the traffic alone


class Counts(NamedTuple):
    """Expected numbers of distinct units in one phase.

    :param canary_bad: units with a bad event in this phase
    :param canary_first: units whose first bad event in the release is in this phase
    """

    canary: float
    stable: float
    canary_bad: float
    stable_bad: float
    canary_first: float
    stable_first: float


class Part(NamedTuple):
    """A phase, and how long it lasts."""

    phase: Phase
    lasts_s: float


def expect(load: TrafficModel, guard: str, before: Sequence[Part], part: Part, effect: float) -> Counts:
    """Return the expected counts of one phase.

    :param before: the earlier phases; only those of the same kind matter, as another kind counts the units anew
    :param effect: by how much the canary's share of bad requests is above stable's
    """
    base = load.base(guard)
    bad = min(base + effect, 1.0)
    phase, lasts_s = part
    canary_bad, stable_bad = load.bad(phase.canary_share, bad, lasts_s), load.bad(phase.stable_share, base, lasts_s)
    canary_first, stable_first = canary_bad, stable_bad
    steps = [p for p in before if p.phase.kind == phase.kind]
    if load.units is not None and phase.kind != "shadow":
        stable_first = load.bad(phase.stable_share, base, lasts_s, sum(base * p.lasts_s for p in steps))
        canary_first = _moved(load, [*steps, part], base, bad)
    return Counts(
        canary=load.seen(phase.canary_share, lasts_s),
        stable=load.seen(phase.stable_share, lasts_s),
        canary_bad=canary_bad,
        stable_bad=stable_bad,
        canary_first=canary_first,
        stable_first=stable_first,
    )


def _moved(load: TrafficModel, parts: Sequence[Part], base: float, bad: float) -> float:
    """Return the canary's first bad units, added up by the step in which they moved from stable to it."""
    total = share = 0.0
    for moved, (phase, _) in enumerate(parts):
        as_stable = sum(base * p.lasts_s for p in parts[:moved])
        as_canary = sum(bad * p.lasts_s for p in parts[moved:-1])
        total += load.bad(phase.canary_share - share, bad, parts[-1].lasts_s, as_stable + as_canary)
        share = phase.canary_share
    return total
