"""A plan for people."""

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
    """Return a load in words; what is assumed says so."""

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
    found = f"alpha {100 * plan.alpha:g} % for the whole release, confidence {100 * plan.confidence:g} % at each step"
    return f"{plan.model}: {found}\nTraffic: {traffic(plan.load, plan.assumed)}\n"


def _phases(plan: Plan, width: int) -> str:
    columns = (
        "phase",
        "callers",
        "bake",
        "expected",
        "80 % within",
        "max wait",
        "units exposed",
        "dead version found after",
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
        "kept: proven after",
        "exceeded: found after",
        "in max wait",
        "finds¹, points",
        "with earlier²",
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
        "¹ smallest regression that is found in 80 % of the releases within max wait; ² if the phases before had it, too.",
        "Times are those of half of the releases; expected ones are means, for a version like stable.",
        f"If it were worse by a step's margin, requests that go badly until it is found: {harmed}.",
        "Callers do not see a failure of the canary: stable answers instead.",
    ]
    lines += [f"{name} is not in this plan: {why}." for name, why in plan.unplanned.items()]
    lines += [_labels(one) for one in plan.labels]
    if plan.promoted_s is not None:
        lines.append(
            f"\nA version like stable is promoted after {seconds(plan.promoted_s)}; "
            f"{plan.exposed_units:,.0f} units have met it by then."
        )
    if plan.effect is not None:
        seen = "; ".join(
            f"{one.phase}: {100 * one.chance:.3g} % ({seconds(one.found_s)})" for one in plan.effect.phases
        )
        lines.append(
            f"Failures {plan.effect.points:g} points above stable's are found by the end of a phase (and so soon in it):"
        )
        lines.append(f"{seen}.")
    return lines + _refusal(plan)


def _labels(made: LabelPlan) -> str:
    when = "" if made.proven_s is None else f" ({seconds(made.proven_s)} and {seconds(made.found_s)} after its start)"
    block = f"blocks of {duration(made.block_s)}" if made.block_s else ""
    proven, found = (f" in {n} {block}" if block else "" for n in (made.prove_blocks, made.find_blocks))
    return (
        f"Labels at {made.phase}: {made.prove_pairs:,} pairs{proven} prove an accuracy not worse by {made.margin_pct:.3g} points,"
        f"\n  {made.find_pairs:,}{found} find it if it is{when}, where {made.disagree_pct:g} % of the pairs differ."
    )


def _refusal(plan: Plan) -> list[str]:
    if not plan.problems:
        return []
    lines = ["\nRefused: this plan cannot keep what it promises."]
    for problem in plan.problems:
        lines.append(f"\nAt {problem.phase}: {problem.text}.")
        lines += _choices(
            problem.remedies, "One of these would mend it:", "No single change of the spec would mend it."
        )
    if plan.remedies:
        lines += ["", *_choices(plan.remedies, "One of these would mend the whole plan:", "")]
    return lines


def _choices(remedies: Sequence[Remedy], some: str, none: str) -> list[str]:
    return [some, *(f"  {_remedy(remedy)}" for remedy in remedies)] if remedies else [none]


def _remedy(remedy: Remedy) -> str:
    return ", ".join(f"release.{key}: {value}" for key, value in remedy.changes.items())
