"""Which expectations may be checked on DuckDB, because the answer is the same as on pandas. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any, Literal

Kind = Literal["number", "text", "time", "boolean", "other"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE"),
        "number",
    ),
    "VARCHAR": "text",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"), "time"),
    "BOOLEAN": "boolean",
}
_EVERY = frozenset({"number", "text", "time", "boolean", "other"})
_KEYS = frozenset({"number", "text", "time"})
_ORDERED = frozenset({"number", "time"})
_NUMBER = frozenset({"number"})
_TEXT = frozenset({"text"})
# Expectation → the kinds of columns on which both engines give the same answer. pandas checks every other expectation: SQL has
# other names for types, other ranks for quantiles, no order of rows, and so on.
_ANSWERS: dict[str, frozenset[str]] = {
    "expect_column_values_to_be_null": _EVERY,
    "expect_column_values_to_not_be_null": _EVERY,
    "expect_column_proportion_of_non_null_values_to_be_between": _EVERY,
    "expect_column_to_exist": _EVERY,
    "expect_column_values_to_be_between": _ORDERED,
    "expect_column_min_to_be_between": _ORDERED,
    "expect_column_max_to_be_between": _ORDERED,
    "expect_column_mean_to_be_between": _NUMBER,
    "expect_column_median_to_be_between": _NUMBER,
    "expect_column_stdev_to_be_between": _NUMBER,
    "expect_column_sum_to_be_between": _NUMBER,  # but see SUMS
    "expect_column_value_z_scores_to_be_less_than": _NUMBER,
    "expect_column_values_to_be_in_set": _KEYS,
    "expect_column_values_to_not_be_in_set": _KEYS,
    "expect_column_distinct_values_to_be_in_set": _KEYS,
    "expect_column_distinct_values_to_contain_set": _KEYS,
    "expect_column_distinct_values_to_equal_set": _KEYS,
    "expect_column_most_common_value_to_be_in_set": _KEYS,
    "expect_column_unique_value_count_to_be_between": _KEYS,
    "expect_column_proportion_of_unique_values_to_be_between": _KEYS,
    "expect_column_values_to_be_unique": _KEYS,
    "expect_column_value_lengths_to_be_between": _TEXT,
    "expect_column_value_lengths_to_equal": _TEXT,
    "expect_column_values_to_match_regex": _TEXT,
    "expect_column_values_to_not_match_regex": _TEXT,
    "expect_column_values_to_match_regex_list": _TEXT,
    "expect_column_values_to_not_match_regex_list": _TEXT,
    "expect_column_values_to_match_like_pattern": _TEXT,
    "expect_column_values_to_not_match_like_pattern": _TEXT,
    "expect_column_values_to_match_like_pattern_list": _TEXT,
    "expect_column_values_to_not_match_like_pattern_list": _TEXT,
    "expect_column_pair_values_a_to_be_greater_than_b": _ORDERED,
    "expect_column_pair_values_to_be_equal": _KEYS,
    "expect_compound_columns_to_be_unique": _KEYS,
    "expect_select_column_values_to_be_unique_within_record": _KEYS,
    "expect_multicolumn_values_to_be_equal": _KEYS,
    "expect_multicolumn_sum_to_equal": _NUMBER,
    "expect_table_row_count_to_be_between": _EVERY,
    "expect_table_row_count_to_equal": _EVERY,
    "expect_table_column_count_to_be_between": _EVERY,
    "expect_table_column_count_to_equal": _EVERY,
    "expect_table_columns_to_match_set": _EVERY,
    "expect_table_columns_to_match_ordered_list": _EVERY,
    "unexpected_rows_expectation": _EVERY,
}
_WITHOUT_NULLS = frozenset(
    {
        "expect_compound_columns_to_be_unique",
        "expect_select_column_values_to_be_unique_within_record",
        "expect_multicolumn_values_to_be_equal",
        "expect_multicolumn_sum_to_equal",
        "expect_column_pair_values_to_be_equal",
        "expect_column_pair_values_a_to_be_greater_than_b",
    }
)
# They name several columns, but do not compare their values.
_APART = frozenset({"expect_compound_columns_to_be_unique", "expect_table_columns_to_match_ordered_list"})
SQL_ONLY = frozenset(name for name in _ANSWERS if "like_pattern" in name or name == "unexpected_rows_expectation")
# The sum of nothing is 0 in pandas and NULL in SQL.
SUMS = frozenset({"expect_column_sum_to_be_between"})
# Their arguments are compared with values of the column. Those of the others are counts, lengths and shares.
_COMPARED = frozenset(
    name
    for name in _ANSWERS
    if name.endswith(("_set", "column_values_to_be_between", "column_min_to_be_between", "column_max_to_be_between"))
)
_VALUES = ("min_value", "max_value", "value_set")
_COLUMNS = ("column", "column_A", "column_B", "column_list")
# Python knows more white space, letters and digits than RE2. In Python $ also matches before a last line break.
_SPACE, _LETTERS, _END = ("\\s", "\\S"), ("\\w", "\\W", "\\d", "\\D", "\\b", "\\B"), "$"


def kind(duckdb_type: str) -> Kind:
    """Return the kind of values of a DuckDB type."""
    return _KINDS.get(duckdb_type, "other")


def columns_of(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns that an expectation's own arguments name."""
    named = (kwargs.get(key) for key in _COLUMNS)
    return tuple(c for value in named if value for c in ([value] if isinstance(value, str) else value))


def patterns_of(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the regular expressions of an expectation."""
    single = kwargs.get("regex")
    return (*([single] if isinstance(single, str) else ()), *(kwargs.get("regex_list") or ()))


def why_pandas(type_name: str, kwargs: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str:
    """Say why an expectation must be checked by pandas; empty: DuckDB gives the same answer.

    :param kwargs: the expectation's arguments; a condition on rows as the dict that Great Expectations makes of it
    :param kinds: column → kind, of the whole table
    """
    allowed = _ANSWERS.get(type_name)
    if allowed is None:
        return "SQL does not have this expectation, or measures something else"
    read = columns_of(kwargs)
    if wrong := [c for c in read if c in kinds and kinds[c] not in allowed]:
        return f"SQL treats values such as those of the column {wrong[0]} otherwise than pandas"
    if type_name not in _APART and len({kinds[c] for c in read if c in kinds}) > 1:
        return "it compares columns of different kinds"
    own = kinds.get(read[0]) if len(read) == 1 else None
    if own and type_name in _COMPARED and not all(_alike(value, own) for value in _literals(kwargs)):
        return f"its values are of another kind than the column {read[0]}"
    if type_name == "expect_column_median_to_be_between" and kwargs.get("row_condition"):
        return "SQL has no median under a row_condition"
    return _why_condition(kwargs.get("row_condition"), kinds)


def columns_without_nulls(type_name: str, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns that must have no NULL if both engines are to agree: in pandas NULL equals NULL, and NULL != 3."""
    own = columns_of(kwargs) if type_name in _WITHOUT_NULLS else ()
    return (*own, *_unequal(kwargs.get("row_condition")))


def _unequal(condition: Any) -> tuple[str, ...]:
    if not isinstance(condition, Mapping):
        return ()
    if parts := condition.get("conditions"):
        return tuple(column for part in parts for column in _unequal(part))
    return (condition["column"]["name"],) if condition.get("operator") in ("!=", "NOT_IN") else ()


def _literals(kwargs: Mapping[str, Any]) -> Iterator[Any]:
    for key in _VALUES:
        value = kwargs.get(key)
        yield from value if isinstance(value, list | tuple | set) else () if value is None else (value,)


def _alike(value: Any, column: Kind) -> bool:
    if isinstance(value, dict):  # a $PARAMETER, computed by the caller: a number
        return column == "number"
    if column == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if column == "text":
        return isinstance(value, str)
    return isinstance(value, date | datetime) or (isinstance(value, str) and _is_time(value))


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False


def _why_condition(condition: Any, kinds: Mapping[str, Kind]) -> str:
    if not condition:
        return ""
    if not isinstance(condition, Mapping) or condition.get("type") == "pass_through":
        return "its row_condition is written for pandas"
    if parts := condition.get("conditions"):
        return next((why for part in parts if (why := _why_condition(part, kinds))), "")
    column = (condition.get("column") or {}).get("name", "")
    parameter = condition.get("parameter")
    values: Iterable[Any] = parameter if isinstance(parameter, list) else [parameter]
    if kinds.get(column) not in _KEYS or not all(v is None or _alike(v, kinds[column]) for v in values):
        return f"its row_condition compares {column} with another kind of value"
    return ""


def condition_columns(condition: Any) -> tuple[str, ...] | None:
    """Return the columns that a condition on rows reads; None: this cannot be known."""
    if not condition:
        return ()
    if not isinstance(condition, Mapping) or condition.get("type") == "pass_through":
        return None
    if parts := condition.get("conditions"):
        inner = [condition_columns(part) for part in parts]
        return None if None in inner else tuple(c for names in inner for c in names or ())
    return ((condition.get("column") or {}).get("name", ""),)


def ends(pattern: str) -> bool:
    """Say whether a regular expression ends with a ``$`` that means the end of the text."""
    before = pattern[:-1]
    return pattern.endswith(_END) and (len(before) - len(before.rstrip("\\"))) % 2 == 0


def re2_pattern(pattern: str) -> str:
    """Rewrite a regular expression so that its ``$`` matches in RE2 where it does in Python: before a last line break, too."""
    return f"{pattern[:-1]}\\n?$" if ends(pattern) else pattern


def text_that_differs(pattern: str, column_sql: str) -> str:
    """Return SQL that is true for a text on which RE2 and Python may disagree about a pattern; empty: they never do.

    :param column_sql: the column's name, quoted
    """
    parts = []
    if any(mark in pattern for mark in _SPACE):
        parts.append(f"regexp_matches({column_sql}, '[\\x0b\\x1c-\\x1f\\x85]')")
    if any(mark in pattern for mark in (*_SPACE, *_LETTERS)) or "(?i" in pattern:
        parts.append(f"strlen({column_sql}) <> length({column_sql})")
    if _END in (pattern[:-1] if ends(pattern) else pattern):
        parts.append(f"contains({column_sql}, chr(10))")
    return " OR ".join(parts)
