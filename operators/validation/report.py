"""The report of a validation: a verdict, a short table of what is not as expected, and addresses of the rest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from operators.core.dataset import Dataset
from operators.core.frozen import Exact
from operators.core.render import columns
from operators.validation.policy import Finding

_XCOM_ROWS = 50


class Quarantined(Exact):
    """Rows that were set aside, so that the others can be used."""

    uri: str = Field(description="Parquet: the rows as they were, and a list `quarantine_reasons`")
    rows: int
    of_rows: int


class ValidationReport(Exact):
    """The report of a snapshot: all findings, and the dataset if the data may be used."""

    passed: bool
    findings: tuple[Finding, ...]
    dataset: Dataset | None = None
    docs_url: str | None = None
    quarantined: dict[str, Quarantined] = Field(
        default_factory=dict, description="table → its rows that were set aside"
    )

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are not ok; those that stop first."""
        return tuple(sorted((f for f in self.findings if not f.ok), key=lambda finding: not finding.stops))

    def to_xcom(self) -> dict[str, Any]:
        """Return the verdict and what is not ok, as plain JSON types; the full report is in storage."""
        return {
            "passed": self.passed,
            "checks": len(self.findings),
            "warnings": sum(not f.stops for f in self.failures),
            "failures": [f.model_dump(mode="json") for f in self.failures[:_XCOM_ROWS]],
            "text": self.text(),
            "docs_url": self.docs_url,
            "dataset": self.dataset.model_dump(mode="json") if self.dataset else None,
            "quarantined": {table: rows.model_dump(mode="json") for table, rows in self.quarantined.items()},
        }

    def text(self) -> str:
        """Return a summary and a table of what is not ok."""
        return report_text(self.passed, self.findings, self.quarantined)


class TableReport(Exact):
    """The report of one table: all findings, and the address of the rows that may be used."""

    passed: bool
    findings: tuple[Finding, ...]
    rows: int = Field(description="rows of the table as it came")
    dataset_uri: str | None = Field(
        description="address of the rows that may be used: the source, or its good rows; null: none"
    )
    quarantined: Quarantined | None = None
    docs_url: str | None = Field(None, description="of the Data Docs, in storage")

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are not ok; the worst first."""
        ranks = ("critical", "warning", "info")
        bad = (f for f in self.findings if not f.ok)
        return tuple(sorted(bad, key=lambda finding: (finding.set_aside, ranks.index(finding.severity))))

    def summary(self) -> dict[str, Any]:
        """Return the facts for an asset event.

        ``success``: no expectation failed, not even with a warning. ``passed``: the task does not fail because of it.
        """
        failed = [f for f in self.findings if not f.ok and not f.set_aside]
        return {
            "passed": self.passed,
            "success": not failed,
            "checks": len(self.findings),
            **{severity: sum(f.severity == severity for f in failed) for severity in ("critical", "warning", "info")},
            "rows": self.rows,
            "quarantined_rows": self.quarantined.rows if self.quarantined else 0,
            "quarantine_uri": self.quarantined.uri if self.quarantined else None,
            "dataset_uri": self.dataset_uri,
            "docs_url": self.docs_url,
        }

    def to_xcom(self) -> dict[str, Any]:
        """Return the summary and what is not ok, as plain JSON types."""
        failures = [f.model_dump(mode="json") for f in self.failures[:_XCOM_ROWS]]
        return {**self.summary(), "failures": failures, "text": self.text()}

    def text(self) -> str:
        """Return a summary and a table of what is not ok."""
        return report_text(self.passed, self.findings, {"the data": self.quarantined} if self.quarantined else {})


def report_text(passed: bool, findings: Sequence[Finding], quarantined: Mapping[str, Quarantined]) -> str:
    """Return a summary and a table of what is not as expected; what stops comes first."""
    failures = sorted((f for f in findings if not f.ok), key=lambda finding: not finding.stops)
    stopping = sum(finding.stops for finding in failures)
    warnings = len(failures) - stopping
    head = (
        f"data {'accepted' if passed else 'REFUSED'}: {len(findings)} checks, {stopping} failed, "
        f"{warnings} warning{'' if warnings == 1 else 's'}"
    )
    aside = [f"{q.rows:,} of {q.of_rows:,} rows of {name} were set aside: {q.uri}" for name, q in quarantined.items()]
    names = ("", "table", "column", "expectation", "unexpected", "found")
    lines = columns([names, *(_cells(finding) for finding in failures)]) if failures else []
    return "\n".join([head, *aside, *lines])


def _cells(finding: Finding) -> tuple[str, ...]:
    share = ""
    if finding.unexpected_count is not None and finding.rows:
        share = f"{finding.unexpected_count:,} of {finding.rows:,} rows"
    mark = "FAIL" if finding.stops else "aside" if finding.set_aside else "warn"
    detail = finding.detail or ", ".join(finding.sample)
    return mark, finding.table, finding.column or "", finding.expectation, share, detail


def verdict(findings: Iterable[Finding], *, complete: bool) -> bool:
    """Say whether the data may be used.

    :param complete: whether every table was checked; otherwise the data may not be used
    """
    return complete and not any(finding.stops for finding in findings)
