"""Sketch the suite that a reference suggests, with some room around what was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from math import ceil, floor, isfinite
from typing import Any

import yaml

from operators.core.frozen import Frozen
from operators.validation.policy import Expectation
from operators.validation.sql_or_pandas import Kind

FEW_VALUES = 20
# What a text may look like; the first that fits all values is proposed. Without a quote: they stand in SQL as they are.
SHAPES = (
    "^[0-9]+$",
    "^[A-Z]+$",
    "^[0-9A-Z]+$",
    "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "^[^@ ]+@[^@ ]+[.][a-z]+$",
)
_ROWS_PER_VALUE = 10
_ENOUGH_ROWS = 100
_VALUES = "expect_column_values_to_"


class Column(Frozen):
    """What was seen in a column.

    ``low`` and ``high`` are of the numbers, or of the lengths of a text.
    """

    name: str
    kind: Kind
    whole: bool = False
    nulls: int
    distinct: int | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = None
    values: tuple[str, ...] = ()
    shape: str = ""


class Table(Frozen):
    """What was seen in a table."""

    rows: int
    hours: float | None = None
    columns: tuple[Column, ...]


def sketch(table: Table, *, margin_pct: float) -> tuple[Expectation, ...]:
    """Return the expectations that a reference suggests. It passes them itself.

    What was never missing and never double is critical; ranges, sets and shapes begin as warnings.

    :param margin_pct: room around what was seen, in percent of the range
    """
    margin = margin_pct / 100
    expectations = [_columns(table), _row_count(table)]
    for column in table.columns:
        expectations += [*_presence(column, table.rows, margin), *_content(column, table.rows, margin)]
    return tuple(expectations)


def _columns(table: Table) -> Expectation:
    names = [column.name for column in table.columns]
    return Expectation(
        type="expect_table_columns_to_match_set",
        kwargs={"column_set": names},
        severity="warning",
        notes="the columns are the known ones",
    )


def _row_count(table: Table) -> Expectation:
    if table.hours is None:
        bounds: dict[str, Any] = {"min_value": table.rows // 2, "max_value": table.rows * 2}
        notes = f"half to double the {table.rows:,} rows of the reference"
    else:
        hourly = table.rows / table.hours
        low, high = rounded(hourly / 2, up=False), rounded(hourly * 2, up=True)
        bounds = {
            "min_value": {"$PARAMETER": f"window_hours * {low}"},
            "max_value": {"$PARAMETER": f"window_hours * {high}"},
        }
        notes = f"half to double the {hourly:,.4g} rows an hour of the reference"
    return Expectation(type="expect_table_row_count_to_be_between", kwargs=bounds, notes=notes)


def _presence(column: Column, rows: int, margin: float) -> Iterator[Expectation]:
    share = column.nulls / rows
    if not column.nulls:
        yield Expectation(
            type=f"{_VALUES}not_be_null", kwargs={"column": column.name}, notes=f"{column.name} is always known"
        )
    elif (mostly := floor(100 * (1 - share * (1 + margin) - 0.01)) / 100) > 0:
        yield Expectation(
            type=f"{_VALUES}not_be_null",
            kwargs={"column": column.name, "mostly": mostly},
            severity="warning",
            notes=f"{column.name} is known in {mostly:.0%} of the rows; it was in {1 - share:.1%}",
        )
    if _is_key(column, rows):
        yield Expectation(
            type=f"{_VALUES}be_unique", kwargs={"column": column.name}, notes=f"no two rows have one {column.name}"
        )


def _is_key(column: Column, rows: int) -> bool:
    return column.distinct == rows >= _ENOUGH_ROWS and (column.kind == "text" or column.whole)


def _content(column: Column, rows: int, margin: float) -> Iterator[Expectation]:
    if column.low is None or column.high is None:
        return
    if column.kind == "number" and _is_key(column, rows):
        return  # the next window has other numbers
    if column.kind == "number":
        yield from _numbers(column, column.low, column.high, margin)
    elif column.values and rows >= _ROWS_PER_VALUE * len(column.values):
        yield Expectation(
            type=f"{_VALUES}be_in_set",
            kwargs={"column": column.name, "value_set": list(column.values)},
            severity="warning",
            notes=f"{column.name} is one of the {len(column.values)} known values",
        )
    else:
        yield from _texts(column, int(column.low), int(column.high), margin)


def _numbers(column: Column, low: float, high: float, margin: float) -> Iterator[Expectation]:
    if not (isfinite(low) and isfinite(high)):
        return
    room = (high - low) * margin
    bottom, top = rounded(low - room, up=False), rounded(high + room, up=True)
    if column.whole:
        bottom, top = floor(bottom), ceil(top)
    if low >= 0:
        bottom = max(bottom, 0)
    yield Expectation(
        type=f"{_VALUES}be_between",
        kwargs={"column": column.name, "min_value": bottom, "max_value": top},
        severity="warning",
        notes=f"{column.name} is {bottom:,} to {top:,}; it was {low:,.6g} to {high:,.6g}",
    )
    if column.mean is None or not column.deviation:
        return
    bottom, top = (rounded(column.mean + sign * column.deviation / 2, up=sign > 0) for sign in (-1, 1))
    yield Expectation(
        type="expect_column_mean_to_be_between",
        kwargs={"column": column.name, "min_value": bottom, "max_value": top},
        severity="warning",
        notes=f"the mean of {column.name} was {column.mean:,.4g}; half a standard deviation to either side",
    )


def _texts(column: Column, low: int, high: int, margin: float) -> Iterator[Expectation]:
    if column.shape:
        shape = (
            column.shape.replace("+$", f"{{{low}}}$") if low == high and column.shape.count("+") == 1 else column.shape
        )
        yield Expectation(
            type=f"{_VALUES}match_regex",
            kwargs={"column": column.name, "regex": shape},
            severity="warning",
            notes=f"{column.name} looks like {shape}",
        )
        if shape != column.shape:
            return
    room = ceil((high - low) * margin)
    yield Expectation(
        type="expect_column_value_lengths_to_be_between",
        kwargs={"column": column.name, "min_value": max(low - room, 0), "max_value": high + room},
        severity="warning",
        notes=f"{column.name} has {max(low - room, 0):,} to {high + room:,} characters",
    )


def rounded(value: float, *, up: bool) -> float | int:
    """Round to three digits that matter, away from what was seen."""
    digits = Context(prec=3, rounding=ROUND_CEILING if up else ROUND_FLOOR).create_decimal(Decimal(value))
    return int(digits) if digits == digits.to_integral_value() else float(digits)


def suite_text(name: str, expectations: Sequence[Expectation], table: Table, *, source: str) -> str:
    """Write a suite as YAML."""
    lines = [
        f"# Drafted from {table.rows:,} rows of {source}. Read every line: what was so is not what must be so.",
        "# `critical` stops the run, `warning` is only listed. `mostly` is the share of rows that must comply.",
        "# To set bad rows aside, give the suite a limit: `quarantine: {max_rows_pct: 1}`.",
        f"{_flow(name)}:",
        "  expectations:",
    ]
    for expectation in expectations:
        lines += [f"    - type: {expectation.type}", f"      kwargs: {_flow(expectation.kwargs)}"]
        if expectation.severity != "critical":
            lines.append(f"      severity: {expectation.severity}")
        lines.append(f"      meta: {_flow({'notes': expectation.notes})}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.strip().removesuffix("...").strip()
