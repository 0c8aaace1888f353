"""Plan a release. Pure."""

from __future__ import annotations

from operators.core.spec_release import Release
from operators.rollout.plan.advice import Advice
from operators.rollout.plan.outlook import Outlook, total_s
from operators.rollout.plan.types import Plan
from operators.rollout.simulation.load import Load


def plan(model: str, release: Release, load: Load, *, assumed: tuple[str, ...] = ()) -> Plan:
    """Return what a release takes, exposes and detects, and why it should not start like this, if so.

    :param model: its name
    :param load: the traffic, and how bad stable is
    :param assumed: which fields of the load nobody gave or measured
    """
    outlook = Outlook(release, load)
    phases = tuple(outlook.describe(index) for index in range(len(outlook.phases)))
    advice = Advice(outlook)
    problems = advice.problems()
    return Plan(
        model=model,
        load=load,
        assumed=assumed,
        alpha=release.judge.alpha,
        confidence=release.judge.confidence,
        phases=phases,
        promoted_s=total_s(phases),
        exposed_units=sum(phase.exposed_units for phase in phases if phase.kind == "step"),
        unplanned=outlook.unplanned,
        problems=problems,
        remedies=tuple(advice.for_all()) if problems else (),
    )
