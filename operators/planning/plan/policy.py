"""Plan a release. Pure."""

from __future__ import annotations

from operators.core.spec_release import Release
from operators.planning.plan.advice import Advice
from operators.planning.plan.forecast import Outlook, total_s
from operators.planning.plan.labelled import label_plans, label_problems
from operators.planning.plan.power import SURE
from operators.planning.plan.types import Effect, Plan, Problem
from operators.planning.simulation.label_arrivals import Labelling
from operators.planning.simulation.traffic_model import TrafficModel


def plan(
    model: str,
    release: Release,
    load: TrafficModel,
    *,
    labelling: Labelling | None = None,
    assumed: tuple[str, ...] = (),
    effect: float | None = None,
) -> Plan:
    """Return what a release takes, exposes and detects, and why it should not start like this, if so.

    :param model: its name
    :param load: the traffic, and how bad stable is
    :param labelling: how labels come; None: not known
    :param assumed: which fields of the load nobody gave or measured
    :param effect: share of the requests that fail on top; must be found before the promotion
    """
    outlook = Outlook(release, load)
    phases = tuple(outlook.describe(index) for index in range(len(outlook.phases)))
    found = None if effect is None else outlook.found(effect)
    advice = Advice(outlook)
    known = labelling is not None
    labels = tuple(label_plans(release, outlook.phases, load, labelling or Labelling(), known=known))
    problems = advice.problems() + _unseen(found, outlook)
    return Plan(
        model=model,
        load=load,
        assumed=assumed,
        alpha=release.judge.alpha,
        confidence=release.judge.confidence,
        phases=phases,
        promoted_s=total_s(phases),
        exposed_units=outlook.met_units(),
        unplanned=outlook.unplanned,
        effect=found,
        labels=labels,
        problems=(*problems, *label_problems(release, outlook.phases, labels)),
        remedies=tuple(advice.for_all(effect=effect)) if problems else (),
    )


def _unseen(found: Effect | None, outlook: Outlook) -> tuple[Problem, ...]:
    """Say that a regression that was asked about may be promoted."""
    if found is None:
        return ()
    steps = [one for one, phase in zip(found.phases, outlook.phases, strict=True) if phase.kind != "watch"]
    if steps[-1].chance >= SURE:
        return ()
    text = f"failures: {found.points:g} points more would be found in {steps[-1].chance:.0%} of the releases, not in {SURE:.0%}"
    return (Problem(phase=steps[-1].phase, text=text),)
