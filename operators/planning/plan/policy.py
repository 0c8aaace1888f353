"""The plan of a release. Pure."""

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
    """Return how long a release takes, whom it exposes, what it detects, and what is wrong with it.

    :param model: name of the model
    :param load: the traffic, and how many of stable's answers are bad
    :param labelling: how labels come; None: not known
    :param assumed: fields of the load that were neither given nor measured
    :param effect: share of additional failures that must be detected before the promotion
    """
    outlook = Outlook(release, load)
    phases = tuple(outlook.describe(index) for index in range(len(outlook.phases)))
    regression = None if effect is None else outlook.regression(effect)
    advice = Advice(outlook)
    known = labelling is not None
    labels = tuple(label_plans(release, outlook.phases, load, labelling or Labelling(), known=known))
    problems = advice.problems() + _undetected(regression, outlook)
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
        effect=regression,
        labels=labels,
        problems=(*problems, *label_problems(release, outlook.phases, labels)),
        remedies=tuple(advice.for_all(effect=effect)) if problems else (),
    )


def _undetected(regression: Effect | None, outlook: Outlook) -> tuple[Problem, ...]:
    """Return a problem if the regression may be promoted."""
    if regression is None:
        return ()
    steps = [one for one, phase in zip(regression.phases, outlook.phases, strict=True) if phase.kind != "watch"]
    if steps[-1].chance >= SURE:
        return ()
    text = (
        f"failures: {regression.points:g} percentage points more are detected before the promotion in "
        f"{steps[-1].chance:.0%} of the releases, not in {SURE:.0%}"
    )
    return (Problem(phase=steps[-1].phase, text=text),)
