"""Examine one table: check its suite, set bad rows aside where the suite allows it, and check the other rows again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.validation.data import Data, open_files
from operators.validation.gx_context import Engine, Outcome
from operators.validation.policy import Finding, QuarantineLimit, Suite, column_findings, finding, runnable
from operators.validation.quarantine import Split, bad_rows, distinct_rows, split
from operators.validation.suites import implementations, is_about_rows


@dataclass(frozen=True)
class Examined:
    """The result for one table.

    :param outcome: of the table as it came
    :param split: the files of the good and of the bad rows, if rows were set aside
    :param rest: outcome of the good rows then
    """

    findings: tuple[Finding, ...]
    outcome: Outcome
    split: Split | None = None
    rest: Outcome | None = None


@dataclass(frozen=True)
class Examination:
    """Checks a table against a suite, and sets bad rows aside where that is allowed.

    :param folder: folder for the files of the good and the bad rows
    :param parameters: values for ``{"$PARAMETER": …}`` in the expectations
    """

    engine: Engine
    folder: Path
    parameters: Mapping[str, Any]
    result_format: Any = "SUMMARY"

    def run(
        self,
        table: str,
        data: Data,
        suite: Suite,
        *,
        gaps: Mapping[str, Sequence[str]] | None = None,
        objects: Sequence[Any] | None = None,
    ) -> Examined:
        """Examine a table. Bad rows are set aside only if the other rows pass the whole suite.

        :param gaps: column → source files that lack it while others have it
        :param objects: Great Expectations' own objects of the suite; default: made from the suite
        """
        made = list(objects) if objects is not None else implementations(suite.expectations)
        first = self._check(table, data, suite, made, gaps or {})
        limits = first.limits(suite)
        chosen = list(limits)
        if not chosen or first.missing:
            return Examined(first.findings, first.outcome)
        counts = [(n, first.by_number[n].unexpected_count or 0) for n in chosen]
        over = {n: why for n, count in counts if (why := limits[n].excess(count, first.outcome.rows))}
        if over:
            return Examined(first.noted(over), first.outcome)
        words = [suite.expectations[n].words for n in chosen]
        most = max(count for _, count in counts)
        bad = bad_rows(self.engine, data, [made[n] for n in chosen], words, at_most=most, parameters=self.parameters)
        whole = suite.quarantine.excess(distinct_rows(bad), first.outcome.rows) if suite.quarantine else ""
        if whole:
            return Examined(first.noted(dict.fromkeys(chosen, whole)), first.outcome)
        parts = split(data, bad, self.folder)
        good = open_files(data.db, f"{data.name}_good", [parts.good])
        name = f"{table} without {parts.rows:,} rows"
        second = self._check(name, good, suite, made, gaps or {})
        if stopping := [f for f in second.findings if f.stops]:
            # The table is refused, so nothing is set aside. The second page shows what the other rows break.
            return Examined((*first.findings, *stopping), first.outcome)
        return Examined(first.set_aside(chosen), first.outcome, parts, second.outcome)

    def _check(self, table: str, data: Data, suite: Suite, made: Sequence[Any], gaps: Mapping[str, Any]) -> Checked:
        def run(objects: Sequence[Any]) -> Outcome:
            return self.engine.check(
                data, objects, suite_name=table, result_format=self.result_format, parameters=self.parameters
            )

        checked = check_suite(table, data.types, suite, made, run, gaps)
        self.engine.keep_page(checked.outcome, checked.objects)
        return checked


def check_suite(
    table: str,
    types: Mapping[str, str],
    suite: Suite,
    made: Sequence[Any],
    run: Callable[[Sequence[Any]], Outcome],
    gaps: Mapping[str, Sequence[str]],
) -> Checked:
    """Check the expectations whose columns the table has, and report the columns that it lacks.

    :param types: column → type
    :param made: Great Expectations' own objects of the suite
    :param run: checks some of the objects
    """
    findings = column_findings(table, suite.expectations, list(types), gaps)
    runs = runnable(suite.expectations, types)
    numbers = [n for n, e in enumerate(suite.expectations) if e in runs]
    missing = [_exists(f.column) for f in findings if f.column not in types]  # so that Data Docs show them too
    objects = [*(made[n] for n in numbers), *missing]
    outcome = run(objects)
    by_number: dict[int, Finding] = {}
    for number, result in zip(numbers, outcome.result.results, strict=False):
        expectation = suite.expectations[number]
        if expectation.is_column_list and findings and not result.success:
            continue  # column_findings says it more clearly
        kind = types.get(expectation.columns[0]) if len(expectation.columns) == 1 else None
        by_number[number] = finding(table, expectation, result.to_json_dict(), outcome.rows, kind)
    return Checked(tuple(findings), by_number, outcome, objects)


@dataclass(frozen=True)
class Checked:
    """The findings of one check.

    :param by_number: number of the expectation → finding
    :param objects: the objects that were checked, in the order of the results
    """

    missing: tuple[Finding, ...]
    by_number: Mapping[int, Finding]
    outcome: Outcome
    objects: Sequence[Any]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them."""
        return (*self.missing, *self.by_number.values())

    def limits(self, suite: Suite) -> dict[int, QuarantineLimit]:
        """Return the limits of the expectations that rows break and that allow setting these rows aside."""
        broken = {n: suite.expectations[n] for n, f in self.by_number.items() if not f.ok and f.unexpected_count}
        return {n: limit for n, e in broken.items() if (limit := suite.limit(e)) and is_about_rows(e.type)}

    def set_aside(self, numbers: Sequence[int]) -> tuple[Finding, ...]:
        """Return the findings. Those that do not stop any more, because the bad rows are gone, are marked."""
        update = {n: f.model_copy(update={"set_aside": n in numbers or f.stops}) for n, f in self.by_number.items()}
        return (*self.missing, *update.values())

    def noted(self, why: Mapping[int, str]) -> tuple[Finding, ...]:
        """Return the findings, some with the reason why their rows are not set aside."""
        update = {n: f.model_copy(update={"detail": why[n]}) if n in why else f for n, f in self.by_number.items()}
        return (*self.missing, *update.values())


def _exists(column: str | None) -> Any:
    from great_expectations.expectations import ExpectColumnToExist

    return ExpectColumnToExist(column=column)
