"""A plan, as it is printed. Frozen, JSON both ways."""

from __future__ import annotations

from pydantic import Field

from operators.core.frozen import Exact
from operators.judge.evidence import Kind
from operators.planning.simulation.traffic_model import TrafficModel


class GuardPlan(Exact):
    """What one guard can do in one phase. Effects are in percentage points of the requests.

    :param margin_pct: of units, that must be refuted: the spec's margin over the share of callers that come next have
    :param refuted_s: until that is refuted for a version like stable, in half of the releases; None: longer than max_wait
    :param refuted_chance: that it is refuted in max_wait
    :param margin_power: chance that a version worse by the margin, from the first phase on, has failed by the end of max_wait
    :param margin_found_s: until a version that is worse from this phase on has failed, in half of the releases; None: longer
    :param detects_pct: smallest regression that fails with a chance of 80 % in max_wait, by this phase's evidence; None: none
    :param detects_with_earlier_pct: the same with the evidence of the phases before, in which it was as bad
    """

    margin_pct: float
    refuted_s: float | None
    refuted_chance: float
    margin_power: float
    margin_found_s: float | None
    detects_pct: float | None
    detects_with_earlier_pct: float | None


class PhasePlan(Exact):
    """What is expected of one phase: how long it lasts, whom it exposes, what it detects.

    :param expected_s: mean time that a version like stable takes; None: mostly it does not pass in max_wait
    :param likely_s: enough in four of five releases; None: not in max_wait
    :param exposed_units: callers that get the new version's answers in that time
    :param harmed_requests: bad answers more than stable's until the release stops, if the version were worse by the
        margin, by the guard that takes the longest; the fallback hides failures from the caller
    :param dead_found_s: until a version that fails everything from this phase on has failed; None: longer than
        max_wait
    :param dead_found_units: units that it had by then
    """

    name: str
    kind: Kind
    weight_pct: float
    bake_s: float
    max_wait_s: float
    expected_s: float | None
    likely_s: float | None
    exposed_units: float
    harmed_requests: float
    dead_found_s: float | None
    dead_found_units: float | None
    guards: dict[str, GuardPlan]


class Found(Exact):
    """What one phase sees of a regression.

    :param found_s: until it has failed in half of the releases, if it is worse from this phase on; None: longer than max_wait
    :param chance: that it has failed by the end of max_wait, if it was as bad in the phases before
    """

    phase: str
    found_s: float | None
    chance: float


class Effect(Exact):
    """A regression that was asked about.

    :param points: percentage points of the requests that fail on top
    """

    points: float
    phases: tuple[Found, ...]


class LabelPlan(Exact):
    """What the guard ``labels`` needs in one phase, in four of five releases.

    :param margin_pct: of accuracy
    :param disagree_pct: pairs in which equally good versions differ in being right; assumed or given
    :param prove_pairs: labelled pairs until a version that is as good has proven it
    :param find_pairs: until a version that is worse by the margin has failed
    :param block_s: how long a block is; None: each pair speaks for itself
    :param prove_blocks: blocks that it takes beside the pairs
    :param find_blocks: likewise
    :param proven_s: when they have come; None: not known how labels come, or what the shadow copied has to do
    :param found_s: likewise
    """

    phase: str
    margin_pct: float
    disagree_pct: float
    prove_pairs: int
    find_pairs: int
    block_s: float | None
    prove_blocks: int
    find_blocks: int
    proven_s: float | None
    found_s: float | None


class Remedy(Exact):
    """A change with which the problem is gone.

    :param changes: key of the spec, below `release`, and what is written there; all of them together
    """

    changes: dict[str, str]


class Problem(Exact):
    """Why a plan is refused.

    :param phase: where
    :param remedies: each of them alone is enough, for this phase; computed, not guessed
    """

    phase: str
    text: str
    remedies: tuple[Remedy, ...] = ()


class Plan(Exact):
    """What is expected of a whole release, and what is wrong with it.

    :param assumed: which numbers of the load nobody gave or measured
    :param exposed_units: callers that get the new version's answers until then, each counted once
    :param promoted_s: mean time to the promotion, for a version like stable; None: it gets stuck
    :param remedies: what would make the whole plan good; with ``problems`` only
    :param unplanned: guards whose evidence does not depend on the load, and why
    """

    model: str
    load: TrafficModel
    assumed: tuple[str, ...] = ()
    alpha: float
    confidence: float
    phases: tuple[PhasePlan, ...]
    promoted_s: float | None
    exposed_units: float
    unplanned: dict[str, str] = Field(default_factory=dict)
    effect: Effect | None = None
    labels: tuple[LabelPlan, ...] = ()
    problems: tuple[Problem, ...] = ()
    remedies: tuple[Remedy, ...] = ()
