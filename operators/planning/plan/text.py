"""The text of `taxiway plan`."""

from __future__ import annotations

from collections.abc import Sequence

from operators.core.render import seconds, table
from operators.planning.plan.search import duration
from operators.planning.plan.types import LabelPlan, Plan, Remedy
from operators.planning.simulation.traffic_model import TrafficModel


def rendered(plan: Plan, *, width: int) -> str:
    """Return a plan as text.

    :param width: columns of the terminal
    """
    parts = [_heading(plan), _phases(plan, width), _guards(plan, width), *_closing(plan)]
    return "\n".join(part for part in parts if part)


def traffic(load: TrafficModel, assumed: Sequence[str] = ()) -> str:
    """Return a load in words, with a mark where it is assumed."""

    def marked(name: str, text: str) -> str:
        return f"{text} (assumed)" if name in assumed else text

    units = "each request counts as a unit" if load.units is None else f"{load.units:,} units, Zipf {load.skew:g}"
    return ", ".join(
        (
            marked("rate_per_s", f"{load.rate_per_s:,.4g} requests/s"),
            marked("error_rate", f"{100 * load.error_rate:.3g} % fail"),
            marked("slow_rate", f"{100 * load.slow_rate:.3g} % are slow"),
            marked("units", units),
        )
    )


def _heading(plan: Plan) -> str:
    judge = f"alpha {100 * plan.alpha:g} % for the whole release, confidence {100 * plan.confidence:g} % at each step"
    return f"{plan.model}: {judge}\nTraffic: {traffic(plan.load, plan.assumed)}\n"


def _phases(plan: Plan, width: int) -> str:
    columns = (
        "phase",
        "callers",
        "bake",
        "expected",
        "80 % within",
        "max wait",
        "units exposed",
        "dead version fails after",
    )
    rows: list[Sequence[str]] = [
        (
            phase.name,
            f"{phase.weight_pct:g} %",
            seconds(phase.bake_s),
            seconds(phase.expected_s),
            seconds(phase.likely_s),
            seconds(phase.max_wait_s),
            f"{phase.exposed_units:,.0f}",
            "—"
            if phase.dead_found_s is None
            else f"{seconds(phase.dead_found_s)}, {phase.dead_found_units or 0:,.0f} units",
        )
        for phase in plan.phases
    ]
    return table(columns, rows, width=width)


def _guards(plan: Plan, width: int) -> str:
    columns = (
        "phase, guard",
        "margin, points",
        "good¹: proven after",
        "bad²: fails after",
        "in max wait",
        "detects³, points",
        "with earlier⁴",
    )
    rows: list[Sequence[str]] = [
        (
            f"{phase.name}, {name}",
            f"{guard.margin_pct:.3g}",
            seconds(guard.refuted_s),
            seconds(guard.margin_found_s),
            f"{100 * guard.margin_power:.3g} %",
            _points(guard.detects_pct),
            _points(guard.detects_with_earlier_pct),
        )
        for phase in plan.phases
        for name, guard in phase.guards.items()
    ]
    return table(columns, rows, width=width) if rows else ""


def _points(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}"


def _closing(plan: Plan) -> list[str]:
    harmed = ", ".join(
        f"{phase.harmed_requests:,.1f} at {phase.name}" for phase in plan.phases if phase.kind == "canary"
    )
    lines = [
        "¹ A version like stable: half of the releases rule out by then that it is worse by the margin.",
        "² A version that is worse by the margin: half of the releases fail it by then. Next column: how many do in max wait.",
        "³ The smallest regression that fails within max wait in 80 % of the releases. ⁴ If the earlier phases had it, too.",
        "Expected is the mean time that a version like stable takes; 80 % of the releases stay within the next time.",
        f"If a version is worse by a step's margin, so many more requests are bad until the rollback: {harmed}.",
        "Callers do not see a failure of the canary: stable answers instead.",
    ]
    lines += [f"{name} is not in this plan: {why}." for name, why in plan.unplanned.items()]
    lines += [_labels(one) for one in plan.labels]
    if plan.promoted_s is not None:
        lines.append(
            f"\nA version like stable is promoted after {seconds(plan.promoted_s)}. "
            f"By then {plan.exposed_units:,.0f} units have had an answer from it."
        )
    if plan.effect is not None:
        seen = "; ".join(
            f"{one.phase}: {100 * one.chance:.3g} % ({seconds(one.found_s)})" for one in plan.effect.phases
        )
        lines.append(
            f"Releases that detect {plan.effect.points:g} percentage points more failures by the end of a phase "
            "(in brackets: how long half of them take):"
        )
        lines.append(f"{seen}.")
    return lines + _refusal(plan)


def _labels(made: LabelPlan) -> str:
    block = f"blocks of {duration(made.block_s)}" if made.block_s else ""
    proven, failed = (f" in {n} {block}" if block else "" for n in (made.prove_blocks, made.find_blocks))
    times = "" if made.proven_s is None else f" That takes {seconds(made.proven_s)} and {seconds(made.found_s)}."
    return (
        f"Labels at {made.phase}: {made.prove_pairs:,} pairs{proven} prove that the accuracy is not worse by "
        f"{made.margin_pct:.3g} points;\n  {made.find_pairs:,} pairs{failed} fail a version that is.{times} In "
        f"{made.disagree_pct:g} % of the pairs just one answer is right."
    )


def _refusal(plan: Plan) -> list[str]:
    if not plan.problems:
        return []
    lines = ["\nRefused: with this traffic the release cannot show what the spec asks for."]
    for problem in plan.problems:
        lines += [f"\nAt {problem.phase}:", *(f"  {text}" for text in problem.text.split("; "))]
        if problem.remedies:
            lines += _choices("One of these changes would be enough:", problem.remedies)
        elif not plan.remedies:
            lines.append("No single change would be enough.")
    if plan.remedies:
        lines += _choices("\nOne of these changes would be enough for all phases:", plan.remedies)
    return lines


def _choices(heading: str, remedies: Sequence[Remedy]) -> list[str]:
    changes = (", ".join(f"release.{key}: {value}" for key, value in one.changes.items()) for one in remedies)
    return [heading, *(f"  {text}" for text in changes)]
