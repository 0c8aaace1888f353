"""Which tags a version gets, when an alias moves, and which of two versions is better. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from operators.core.frozen import Frozen
from operators.core.render import columns

UNKNOWN = "unknown"
AS_OF = "taxiway.as_of"  # end of the training window
Direction = Literal["higher", "lower"]
_MOST_METRICS = 50  # an event is no place for hundreds
_MOST_TEXT = 500


def links(
    *,
    data_digest: str | None,
    code_commit: str | None,
    dag_id: str,
    dag_run: str,
    dag_run_url: str | None,
    validation: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Return the tags that say where a version comes from. A value that is not known is ``unknown``.

    :param validation: a validation report as `ValidateOperator` gives it: ``passed``, ``checks``, ``failures``, ``docs_url``
    """
    report = validation or {}
    verdict = {True: "passed", False: "refused"}.get(report.get("passed"))  # type: ignore[arg-type]
    known = {
        "data_digest": data_digest,
        "code_commit": code_commit,
        "dag_id": dag_id,
        "dag_run": dag_run,
        "dag_run_url": dag_run_url,
        "validation": verdict,
        "validation_checks": report.get("checks"),
        "validation_warnings": _warnings(report),
        "validation_url": report.get("docs_url"),
    }
    return {f"taxiway.{name}": UNKNOWN if value in (None, "", "None") else str(value) for name, value in known.items()}


def _warnings(report: Mapping[str, Any]) -> int | None:
    """Return how many checks failed without stopping the run."""
    failures = report.get("warnings", report.get("failures"))
    if isinstance(failures, list):
        return sum(
            1 for failure in failures if not isinstance(failure, Mapping) or failure.get("severity") != "critical"
        )
    return failures


def displaces(holder: Mapping[str, str], newcomer: Mapping[str, str]) -> bool:
    """Say whether a version may take an alias from another, by their tags: not if it was trained on an older window.

    The runs of a backfill end in any order.
    """
    return holder.get(AS_OF, "") <= newcomer.get(AS_OF, "")


def event_extra(
    version: Mapping[str, Any], *, metrics: Mapping[str, float], aliases: tuple[str, ...], tags: Mapping[str, str]
) -> dict[str, Any]:
    """Return the facts in the event of a `Model` asset.

    :param version: ``model``, ``version``, ``run_id``, ``uri``
    """
    return {
        **version,
        "aliases": list(aliases),
        "metrics": {name: metrics[name] for name in sorted(metrics)[:_MOST_METRICS]},
        "data_digest": tags.get("taxiway.data_digest", UNKNOWN)[:_MOST_TEXT],
    }


class Row(Frozen):
    """One metric of two versions.

    :param difference: candidate minus baseline; None where one of them was not measured
    """

    metric: str
    direction: Direction
    baseline: float | None
    candidate: float | None
    difference: float | None
    verdict: Literal["better", "same", "worse", "unknown"]


class Comparison(Frozen):
    """Two versions, metric by metric.

    :param baseline: version; None if there is none to compare with
    """

    model: str
    baseline: str | None
    candidate: str
    rows: tuple[Row, ...]

    @property
    def bad(self) -> tuple[Row, ...]:
        """The metrics that got worse or, where there is a baseline, were not measured in both."""
        return tuple(row for row in self.rows if row.verdict == "worse" or (row.verdict == "unknown" and self.baseline))

    def text(self) -> str:
        """Return a table for the log."""
        head = ("metric", f"baseline {self.baseline or '-'}", f"candidate {self.candidate}", "difference", "")
        rows = ((r.metric, _number(r.baseline), _number(r.candidate), _signed(r), r.verdict) for r in self.rows)
        return "\n".join(columns([head, *rows]))


def compare(
    model: str,
    *,
    baseline: str | None,
    candidate: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    directions: Mapping[str, Direction],
    tolerances: Mapping[str, float],
) -> Comparison:
    """Compare two versions.

    :param before: metrics of the baseline; ``after``: of the candidate
    :param directions: which way each metric is better
    :param tolerances: how far a metric may differ and still be the same, in its own unit; default 0
    """

    def row(metric: str, direction: Direction) -> Row:
        old, new = before.get(metric), after.get(metric)
        difference = None if old is None or new is None else new - old
        verdict: Literal["better", "same", "worse", "unknown"] = "unknown" if difference is None else "same"
        if difference is not None and abs(difference) > tolerances.get(metric, 0.0):
            verdict = "better" if (difference > 0) == (direction == "higher") else "worse"
        return Row(
            metric=metric, direction=direction, baseline=old, candidate=new, difference=difference, verdict=verdict
        )

    rows = tuple(row(metric, direction) for metric, direction in directions.items())
    return Comparison(model=model, baseline=baseline, candidate=candidate, rows=rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _signed(row: Row) -> str:
    return "-" if row.difference is None else f"{row.difference:+.6g}"
