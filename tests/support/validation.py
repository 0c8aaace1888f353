"""A suite, an expectation and a task's context, for the tests of validation."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from tests.support import tasks

SUITE = """
orders:
  quarantine: {max_rows_pct: 2}
  expectations:
    - {type: expect_table_row_count_to_be_between, kwargs: {min_value: 90}}
    - {type: expect_column_values_to_be_between, kwargs: {column: price, min_value: 0}, meta: {notes: no price is negative}}
    - {type: expect_column_values_to_be_unique, kwargs: {column: id}}
    - {type: expect_column_values_to_not_be_null, kwargs: {column: country}, severity: warning}
    - {type: expect_column_values_to_match_regex, kwargs: {column: country, regex: "^(?!X)"}}
"""


def context() -> dict[str, Any]:
    return tasks.context(outlet_events=defaultdict(SimpleNamespace), params={})


def values_between(_: Any) -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column="price", min_value=0)
