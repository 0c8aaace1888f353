"""A plan: what is printed, as text or as JSON."""

from __future__ import annotations

from pydantic import Field

from operators.core.frozen import Exact
from operators.judge.evidence import Kind
from operators.planning.simulation.traffic_model import TrafficModel


class GuardPlan(Exact):
    """What one guard can show in one phase. Effects are in percentage points of the requests.

    :param margin_pct: percentage points of the units: the spec's margin, divided by the share of the callers in the next phase
    :param refuted_s: seconds until the data rules out, in half of the releases, that a version like stable is worse by the
        margin; None: longer than max_wait
    :param refuted_chance: chance that this is ruled out within max_wait
    :param margin_power: chance that a version which is worse by the margin from the first phase on fails within max_wait
    :param margin_found_s: seconds until a version that is worse by the margin from this phase on has failed, in half of the
        releases; None: longer than max_wait
    :param detects_pct: smallest regression that fails within max_wait with a chance of 80 %, with the evidence of this phase
        alone; None: none does
    :param detects_with_earlier_pct: the same with the evidence of the earlier phases, in which the version was as bad
    """

    margin_pct: float
    refuted_s: float | None
    refuted_chance: float
    margin_power: float
    margin_found_s: float | None
    detects_pct: float | None
    detects_with_earlier_pct: float | None


class PhasePlan(Exact):
    """What is expected of one phase: how long it lasts, how many callers it exposes, what it detects.

    :param expected_s: mean time for a version like stable; None: in most releases it does not pass within max_wait
    :param likely_s: time that is enough in four of five releases; None: longer than max_wait
    :param exposed_units: callers that get an answer of the new version in the expected time
    :param harmed_requests: how many more requests are bad until the rollback if the version is worse by the margin of the
        guard that takes the longest; callers do not see those that fail
    :param dead_found_s: seconds until a version that fails everything from this phase on has failed; None: longer than
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


class Detection(Exact):
    """How one phase detects a regression.

    :param found_s: seconds until a version that is worse from this phase on has failed, in half of the releases; None: longer
        than max_wait
    :param chance: chance that it fails within max_wait, if it was as bad in the earlier phases
    """

    phase: str
    found_s: float | None
    chance: float


class Effect(Exact):
    """A regression that the plan was asked about.

    :param points: percentage points of the requests that fail in addition
    """

    points: float
    phases: tuple[Detection, ...]


class LabelPlan(Exact):
    """What the guard ``labels`` needs in one phase, to be enough in four of five releases.

    :param margin_pct: percentage points of the accuracy
    :param disagree_pct: percent of the pairs in which just one of two equally good versions is right; assumed or given
    :param prove_pairs: labelled pairs until it is shown that a version which is as good as stable is not worse
    :param find_pairs: labelled pairs until a version that is worse by the margin has failed
    :param block_s: length of a block in seconds; None: each pair counts by itself
    :param prove_blocks: blocks that `prove_pairs` must come from
    :param find_blocks: blocks that `find_pairs` must come from
    :param proven_s: seconds from the start of the phase until `prove_pairs` have their labels; None: it is not known how labels
        come, or the phase copies no requests
    :param found_s: the same for `find_pairs`
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
    """A change of the spec that solves a problem.

    :param changes: keys below `release` and their new values, all to be changed together
    """

    changes: dict[str, str]


class Problem(Exact):
    """Why a plan is refused.

    :param remedies: each of them alone is enough for this phase; each was tried
    """

    phase: str
    text: str
    remedies: tuple[Remedy, ...] = ()


class Plan(Exact):
    """What is expected of a whole release, and what is wrong with it.

    :param assumed: fields of the load that were neither given nor measured
    :param promoted_s: mean time to the promotion, for a version like stable; None: it does not get there
    :param exposed_units: callers that get an answer of the new version before the promotion, each counted once
    :param unplanned: guards that are not planned, and why
    :param remedies: changes that solve all problems, each alone; empty if there are none
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
