"""Expectations of a table, and a finding for each. Pure: no I/O, no Great Expectations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field

from operators.core.frozen import Exact

SAMPLE = 3
Severity = Literal["critical", "warning", "info"]
FailOn = Literal["critical", "warning", "info", "never"]
_RANKS = {"info": 1, "warning": 2, "critical": 3, "never": 4}
_COLUMN_KEYS = ("column", "column_A", "column_B")
_COLUMN_LIST_KEYS = ("column_list", "column_set")


class QuarantineLimit(Exact):
    """How many rows may be set aside. If there are more bad rows, the data is refused."""

    max_rows_pct: float = Field(gt=0, le=100, description="share of the table's rows that may be set aside, in percent")
    max_rows: int = Field(
        100_000,
        gt=0,
        description="most rows that may be set aside, whatever their share: their numbers are held in memory",
    )

    def excess(self, rows: int, of: int) -> str:
        """Say that these are too many rows. Empty: they are not.

        :param rows: rows that would be set aside
        :param of: rows of the table
        """
        if rows > self.max_rows:
            return f"{rows:,} rows; at most {self.max_rows:,} may be set aside"
        if of and 100 * rows / of > self.max_rows_pct:
            return f"{rows:,} of {of:,} rows; at most {self.max_rows_pct:g} % may be set aside"
        return ""


class Expectation(Exact):
    """One expectation as it stands in the YAML file: Great Expectations' own type and kwargs."""

    type: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    severity: Severity = "critical"
    notes: str = ""
    line: int = Field(0, description="line of the file")
    quarantine: QuarantineLimit | Literal[False] | None = Field(
        None,
        description="limit for this expectation; false: its rows are never set aside; default: the limit of the suite",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        single = [self.kwargs[key] for key in _COLUMN_KEYS if key in self.kwargs]
        return (*single, *(c for key in _COLUMN_LIST_KEYS for c in self.kwargs.get(key) or ()))

    @property
    def is_column_list(self) -> bool:
        """Whether it is about the list of the table's columns."""
        return self.type.startswith("expect_table_columns")

    @property
    def words(self) -> str:
        """What it expects, in plain words."""
        if self.notes:
            return self.notes
        text = self.type.removeprefix("expect_").replace("_", " ")
        rest = ", ".join(f"{key} {value}" for key, value in self.kwargs.items() if key not in _COLUMN_KEYS)
        return f"{text} ({rest})" if rest else text


class Finding(Exact):
    """One row of the report."""

    table: str
    column: str | None
    expectation: str
    severity: Severity
    ok: bool
    unexpected_count: int | None = None
    rows: int | None = None
    sample: tuple[str, ...] = ()
    detail: str = ""
    set_aside: bool = Field(False, description="its rows are in quarantine, and the other rows passed")

    @property
    def stops(self) -> bool:
        """Whether the data is refused because of it."""
        return self.fails("critical")

    def fails(self, level: FailOn) -> bool:
        """Whether it is bad enough for a level. ``warning`` includes critical findings."""
        return not self.ok and not self.set_aside and _RANKS[self.severity] >= _RANKS[level]


class Suite(Exact):
    """The expectations of one table."""

    expectations: tuple[Expectation, ...]
    quarantine: QuarantineLimit | None = Field(None, description="limit for its critical expectations about rows")

    def limit(self, expectation: Expectation) -> QuarantineLimit | None:
        """Return how many rows an expectation may set aside; None: none."""
        if expectation.quarantine is None:
            return self.quarantine if expectation.severity == "critical" else None
        return expectation.quarantine or None


def missing_columns(expectations: Sequence[Expectation], columns: Iterable[str]) -> list[str]:
    """Return the columns that the suite reads and the table lacks, in the suite's order."""
    present = set(columns)
    return [c for c in dict.fromkeys(c for e in expectations for c in e.columns) if c not in present]


def runnable(expectations: Sequence[Expectation], columns: Iterable[str]) -> list[Expectation]:
    """Return the expectations whose columns exist. For the others Great Expectations would give a stack trace."""
    missing = set(missing_columns(expectations, columns))
    return [e for e in expectations if e.is_column_list or not missing & set(e.columns)]


def column_findings(
    table: str,
    expectations: Sequence[Expectation],
    columns: Sequence[str],
    gaps: Mapping[str, Sequence[str]],
) -> list[Finding]:
    """Report the columns that are missing in the table or in some of its source files, with their likely new names.

    :param columns: of the table, in its order
    :param gaps: column → source files that lack it while others have it
    """
    known = dict.fromkeys(c for e in expectations for c in e.columns)
    new = [column for column in columns if column not in known]
    findings = []
    for column in missing_columns(expectations, columns):
        findings.append(_missing(table, column, f"column {column} is missing from {table}", new, only=len(new) == 1))
    for column in (c for c in gaps if c in known):
        text = f"column {column} is missing from {table} in {_files(gaps[column])}"
        # The new name can only stand in the files that lack the old one.
        fits = [c for c in new if not set(gaps.get(c, ())) & set(gaps[column])]
        findings.append(_missing(table, column, text, fits, only=len(fits) == 1))
    return findings


def _missing(table: str, column: str, text: str, new: Sequence[str], *, only: bool) -> Finding:
    close = get_close_matches(column, new, n=1, cutoff=0.5) or (list(new) if only else [])
    hint = f"; perhaps it is now called {close[0]}" if close else ""
    return Finding(
        table=table, column=column, expectation="the column exists", severity="critical", ok=False, detail=text + hint
    )


def _files(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more files" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def finding(
    table: str, expectation: Expectation, result: Mapping[str, Any], rows: int, type_name: str | None
) -> Finding:
    """Translate one result of Great Expectations.

    :param result: as `to_json_dict` gives it: ``success``, ``result`` and ``exception_info``
    :param rows: of the table
    :param type_name: type of the column, for the message if the expectation could not be checked
    """
    ok, facts = bool(result["success"]), result.get("result") or {}
    count = facts.get("unexpected_count")
    detail = "" if ok else _observed(expectation, result.get("expectation_config", {}).get("kwargs", {}), facts)
    error = _exception(result.get("exception_info") or {})
    if error:
        kind = f"the column is {type_name}; " if type_name else ""
        detail = f"could not be checked: {kind}{error}"
    columns = expectation.columns
    return Finding(
        table=table,
        column=columns[0] if len(columns) == 1 else ", ".join(columns) if len(columns) < 4 and columns else None,
        expectation=expectation.words,
        severity=expectation.severity,
        ok=ok,
        unexpected_count=count,
        rows=rows,
        sample=() if ok else _sample(facts),
        detail=detail,
    )


def _sample(facts: Mapping[str, Any]) -> tuple[str, ...]:
    shown = []
    for value in facts.get("partial_unexpected_list") or ():
        text = " ".join(str(v) for v in value.values()) if isinstance(value, dict) else str(value)
        if value is not None and text not in shown:
            shown.append(text[:60])
    return tuple(shown[:SAMPLE])


def _observed(expectation: Expectation, kwargs: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the observed value in words, for an expectation about a whole table or column."""
    value = facts.get("observed_value")
    if value is None or "unexpected_count" in facts:
        return ""
    unit = " rows" if "row_count" in expectation.type else ""
    bounds = (("at least", kwargs.get("min_value")), ("at most", kwargs.get("max_value")))
    limits = [f"{word} {_number(bound)}" for word, bound in bounds if bound is not None]
    if not limits:
        return f"found {str(value)[:200]}"
    return f"expected {' and '.join(limits)}{unit}, found {_number(value)}"


def _number(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}"
    return f"{int(value):,}" if isinstance(value, int | float) else str(value)


def _exception(info: Mapping[str, Any]) -> str:
    """Return the last line of an exception. Great Expectations may nest the info under the id of a metric."""
    candidates = [info, *(value for value in info.values() if isinstance(value, Mapping))]
    for candidate in candidates:
        if candidate.get("raised_exception") and candidate.get("exception_message"):
            return str(candidate["exception_message"]).strip().splitlines()[-1][:200]
    return ""
