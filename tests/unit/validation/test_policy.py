from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.validation.policy import Expectation, Finding, QuarantineLimit, Suite
from operators.validation.report import Quarantined, TableReport
from operators.validation.sql_or_pandas import (
    columns_without_nulls,
    ends,
    kind,
    re2_pattern,
    text_that_differs,
    why_pandas,
)

BETWEEN = "expect_column_values_to_be_between"
KINDS: Any = {"n": "number", "s": "text", "t": "time", "b": "boolean", "o": "other"}


@given(limit=st.floats(0.01, 100), rows=st.integers(0, 10**6), of=st.integers(1, 10**6))
def test_a_limit_is_a_share_and_a_number(limit: float, rows: int, of: int) -> None:
    quarantine = QuarantineLimit(max_rows_pct=limit, max_rows=1000)
    assert bool(quarantine.excess(rows, of)) == (rows > 1000 or 100 * rows / of > limit)


@pytest.mark.parametrize(
    ("own", "severity", "of_suite", "expected"),
    [
        (None, "critical", 2, 2),
        (None, "warning", 2, None),
        (None, "critical", None, None),
        (False, "critical", 2, None),
        (3, "warning", 2, 3),
        (3, "critical", None, 3),
    ],
)
def test_whose_limit_counts(own: Any, severity: Any, of_suite: Any, expected: Any) -> None:
    limits = {pct: QuarantineLimit(max_rows_pct=pct) for pct in (2, 3)}
    expectation = Expectation(type=BETWEEN, severity=severity, quarantine=limits.get(own, own))
    found = Suite(expectations=(expectation,), quarantine=limits.get(of_suite)).limit(expectation)
    assert found == limits.get(expected)


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
def test_a_finding_fails_at_its_level_and_below(severity: Any) -> None:
    order = ("info", "warning", "critical")
    bad = Finding(table="t", column=None, expectation="e", severity=severity, ok=False)
    fails = {level: bad.fails(level) for level in order}  # type: ignore[arg-type]
    assert fails == {level: order.index(severity) >= order.index(level) for level in order}
    assert not bad.fails("never")
    assert not bad.model_copy(update={"set_aside": True}).fails("info")
    assert not bad.model_copy(update={"ok": True}).fails("info")


def test_a_report_says_passed_and_success() -> None:
    warning = Finding(table="t", column="c", expectation="e", severity="warning", ok=False)
    aside = warning.model_copy(update={"severity": "critical", "set_aside": True})
    quarantined = Quarantined(uri="file:///q", rows=3, of_rows=100)
    report = TableReport(
        passed=True, findings=(aside, warning), rows=100, dataset_uri="file:///g", quarantined=quarantined
    )
    facts = report.summary()
    assert (facts["passed"], facts["success"], facts["critical"], facts["warning"]) == (True, False, 0, 1)
    assert report.failures == (warning, aside)
    assert "3 of 100 rows" in report.text()


@pytest.mark.parametrize(
    ("name", "kwargs", "why"),
    [
        (BETWEEN, {"column": "n", "min_value": 1, "max_value": 2.5}, ""),
        (BETWEEN, {"column": "n", "min_value": {"$PARAMETER": "a * 2"}}, ""),
        (BETWEEN, {"column": "n", "min_value": "1"}, "of another kind than the column n"),
        (BETWEEN, {"column": "n", "min_value": True}, "of another kind"),
        (BETWEEN, {"column": "t", "min_value": "2026-01-01"}, ""),
        (BETWEEN, {"column": "t", "min_value": "2026-01-01T00:00:00Z"}, "of another kind"),
        (BETWEEN, {"column": "t", "min_value": "soon"}, "of another kind"),
        (BETWEEN, {"column": "s", "min_value": "a"}, "SQL treats values such as"),
        (BETWEEN, {"column": "b", "min_value": 0}, "SQL treats values such as"),
        ("expect_column_values_to_not_be_null", {"column": "o"}, ""),
        ("expect_column_values_to_be_in_set", {"column": "s", "value_set": ["a", 1]}, "of another kind"),
        ("expect_column_values_to_be_of_type", {"column": "n", "type_": "int64"}, "SQL does not have this expectation"),
        ("expect_column_pair_values_to_be_equal", {"column_A": "n", "column_B": "s"}, "columns of different kinds"),
        ("expect_compound_columns_to_be_unique", {"column_list": ["n", "s", "t"]}, ""),
        (BETWEEN, {"column": "n", "min_value": 1, "row_condition": "n > 1"}, "written for pandas"),
        (
            BETWEEN,
            {
                "column": "n",
                "row_condition": {"type": "comparison", "column": {"name": "s"}, "operator": ">", "parameter": 3},
            },
            "compares s with another kind",
        ),
    ],
)
def test_who_answers(name: str, kwargs: dict[str, Any], why: str) -> None:
    found = why_pandas(name, kwargs, KINDS)
    assert why in found
    assert bool(found) == bool(why)


def test_null_matters_where_values_are_compared_with_each_other() -> None:
    unequal = {"type": "comparison", "column": {"name": "s"}, "operator": "!=", "parameter": "a"}
    both = {"type": "and", "conditions": [unequal, {**unequal, "operator": "==", "column": {"name": "n"}}]}
    assert columns_without_nulls(BETWEEN, {"column": "n", "row_condition": both}) == ("s",)
    assert columns_without_nulls("expect_compound_columns_to_be_unique", {"column_list": ["n", "s"]}) == ("n", "s")
    assert columns_without_nulls(BETWEEN, {"column": "n"}) == ()


@pytest.mark.parametrize(
    ("pattern", "end"), [("a$", True), ("a", False), (r"a\$", False), (r"a\\$", True), ("$", True), ("", False)]
)
def test_a_dollar_at_the_end_is_told_from_one_that_is_meant(pattern: str, end: bool) -> None:
    assert ends(pattern) == end


@given(st.text("ab\n", max_size=6), st.sampled_from(["a$", "$", "b|a$", "[ab]+$", "^a*$", r"\n$", "a\n$"]))
def test_the_rewritten_end_finds_what_python_finds(text: str, pattern: str) -> None:
    # RE2's $ is Python's \Z.
    rewritten = re2_pattern(pattern)[:-1] + r"\Z"
    assert bool(re.search(pattern, text)) == bool(re.search(rewritten, text))


def test_what_may_differ_is_asked_of_the_text() -> None:
    assert text_that_differs("^[a-z]+$", "c") == ""
    assert "chr(10)" in text_that_differs("(a$)", "c")
    assert "strlen" in text_that_differs(r"\d", "c")
    assert "x0b" in text_that_differs(r"\s", "c")


@pytest.mark.parametrize(
    ("type_name", "expected"),
    [("DOUBLE", "number"), ("VARCHAR", "text"), ("TIMESTAMP", "time"), ("DECIMAL(18,3)", "other")],
)
def test_kinds_of_columns(type_name: str, expected: str) -> None:
    assert kind(type_name) == expected
