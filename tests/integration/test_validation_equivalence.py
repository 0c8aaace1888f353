"""Our engine says what Great Expectations says on pandas: every expectation of the registry, on data made to differ."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.validation import expectations as benchmarked
from benchmarks.validation import write
from operators.core.duck import open_duckdb
from operators.core.loader import INCLUDE
from operators.validation.data import Data, open_files, open_frame
from operators.validation.gx_context import _NUMBER, Engine, _numbered, _raised, check_batch
from operators.validation.interruptible import InterruptibleDuckDB
from operators.validation.sql_or_pandas import _ANSWERS, SQL_ONLY
from operators.validation.suites import implementations, import_gx, load_suites

ROWS = 60
AT_ONCE = 40
WORDS = ["a", "bb", "ccc", "Ünï", "x y", "tab\tx", "nl\n", "", "1234", "A-1", "$l$", "\\", "v\x0bt"]
NUMBERS = ("whole", "holes", "small", "real", "nan", "missing", "infinite", "empty", "constant")
TEXTS = ("text", "text_holes", "plain")
TIMES = ("time", "time_holes")
COMPARED = (
    "element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent", "observed_value",
    "unexpected_percent_total", "unexpected_percent_nonmissing",
)  # fmt: skip
SETS = (
    "values_to_be_in_set", "values_to_not_be_in_set", "distinct_values_to_be_in_set", "distinct_values_to_contain_set",
    "distinct_values_to_equal_set", "most_common_value_to_be_in_set",
)  # fmt: skip
PATTERNS = (
    "^[a-c]+$", "b", r"\w+", r"^\w+$", r"\s", r"\d{2}", "(?i)A", "(?i)Ü", r"l\$", r"\\$",  "n$|l$", "(nl$)", "[$]", "^(?!a)", "x y|nl$", "^.$", r"(a)\1", "$", "[^\\x00-\\x7f]",
)  # fmt: skip


def nasty(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)

    def holes(values: Any) -> list[Any]:
        return [None if rng.random() < 0.15 else value for value in values]

    def times(start: str) -> pd.DatetimeIndex:
        return pd.Timestamp(start) + pd.to_timedelta(rng.integers(0, 10**6, rows), unit="s")

    words = [WORDS[n] for n in rng.integers(0, len(WORDS), rows)]
    return pa.table(
        {
            "id": pa.array(np.arange(rows)),
            "whole": pa.array(rng.integers(0, 12, rows)),
            "holes": pa.array(holes(rng.integers(0, 12, rows).tolist()), pa.int64()),
            "small": pa.array(rng.integers(-5, 5, rows).astype("int16")),
            "real": pa.array(rng.normal(0, 1, rows)),
            "nan": pa.array([float("nan") if rng.random() < 0.2 else x for x in rng.normal(0, 1, rows)], pa.float64()),
            "missing": pa.array(holes(rng.normal(0, 1, rows).tolist()), pa.float64()),
            "infinite": pa.array([float("inf") if rng.random() < 0.05 else x for x in rng.normal(0, 1, rows)], pa.float64()),
            "empty": pa.array([None] * rows, pa.float64()),
            "constant": pa.array([3.0] * rows, pa.float64()),
            "text": pa.array(words, pa.string()),
            "text_holes": pa.array(holes(words), pa.string()),
            "plain": pa.array(holes([f"C{n:04}" for n in rng.integers(0, 60, rows)]), pa.string()),
            "flag": pa.array(holes((rng.random(rows) < 0.5).tolist()), pa.bool_()),
            "time": pa.array(times("2013-01-01"), pa.timestamp("us")),
            "later": pa.array(times("2013-01-05"), pa.timestamp("us")),
            "time_holes": pa.array(holes(times("2013-01-01")), pa.timestamp("us")),
            "day": pa.array((pd.Timestamp("2013-01-01") + pd.to_timedelta(rng.integers(0, 100, rows), unit="D")).date, pa.date32()),
        }
    )  # fmt: skip


def of_any_column(columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    values = "expect_column_values_to_"
    for column in columns:
        yield f"{values}not_be_null", {"column": column}
        yield f"{values}be_null", {"column": column, "mostly": 0.5}
        yield f"{values}be_unique", {"column": column}
        yield f"{values}be_of_type", {"column": column, "type_": "float64"}
        yield f"{values}be_in_type_list", {"column": column, "type_list": ["int64", "str"]}
        yield f"{values}match_regex", {"column": column, "regex": "^[a-c]+$"}
        yield f"{values}be_in_set", {"column": column, "value_set": ["a", 1, True]}
        yield f"{values}be_increasing", {"column": column}
        yield "expect_column_unique_value_count_to_be_between", {"column": column, "min_value": 3, "max_value": 20}
        yield (
            "expect_column_proportion_of_unique_values_to_be_between",
            {"column": column, "min_value": 0.1, "max_value": 0.9},
        )
        yield "expect_column_proportion_of_non_null_values_to_be_between", {"column": column, "min_value": 0.95}
        yield "expect_column_to_exist", {"column": column}
        yield "expect_column_value_lengths_to_be_between", {"column": column, "min_value": 1, "max_value": 3}


def of_numbers() -> Iterator[tuple[str, dict[str, Any]]]:
    bounds = ({"min_value": 0}, {"max_value": 1}, {"min_value": 0, "max_value": 10, "strict_min": True},
              {"min_value": -0.5, "max_value": 0.5, "strict_max": True})  # fmt: skip
    for column in NUMBERS:
        for bound in bounds:
            yield "expect_column_values_to_be_between", {"column": column, "mostly": 0.4, **bound}
            yield "expect_column_min_to_be_between", {"column": column, **bound}
            yield "expect_column_max_to_be_between", {"column": column, **bound}
        for what in ("mean", "median", "stdev", "sum"):
            yield f"expect_column_{what}_to_be_between", {"column": column, "min_value": -0.2, "max_value": 0.3}
        for double in (True, False):
            yield "expect_column_value_z_scores_to_be_less_than", {"column": column, "threshold": 1, "double_sided": double, "mostly": 0.9}  # fmt: skip
        ranges = {"quantiles": [0.1, 0.5, 0.9], "value_ranges": [[-5, 5], [0, 9], [None, 9]]}
        yield "expect_column_quantile_values_to_be_between", {"column": column, "quantile_ranges": ranges}
        yield from ((f"expect_column_{name}", {"column": column, "value_set": s}) for name, s in product(SETS, ([0, 1.5, 2], list(range(-5, 12)), [])))  # fmt: skip


def of_texts_and_times() -> Iterator[tuple[str, dict[str, Any]]]:
    for column in TEXTS:
        yield from (
            (f"expect_column_{name}", {"column": column, "value_set": s})
            for name, s in product(SETS, (["a", "bb"], WORDS, []))
        )
        for pattern in PATTERNS:
            yield "expect_column_values_to_match_regex", {"column": column, "regex": pattern}
            yield "expect_column_values_to_not_match_regex", {"column": column, "regex": pattern, "mostly": 0.5}
        yield "expect_column_values_to_match_regex_list", {"column": column, "regex_list": ["^a", "b$"]}
        yield (
            "expect_column_values_to_match_regex_list",
            {"column": column, "regex_list": ["a", "b"], "match_on": "all"},
        )
        yield "expect_column_values_to_not_match_regex_list", {"column": column, "regex_list": ["^a", "b$"]}
        yield "expect_column_value_lengths_to_equal", {"column": column, "value": 2}
        yield "expect_column_value_lengths_to_be_between", {"column": column, "max_value": 2}
    for column in TIMES:
        for bound in ({"max_value": dt.datetime(2013, 1, 5, 12)}, {"min_value": dt.datetime(2013, 1, 2), "max_value": dt.datetime(2013, 1, 4)}):  # fmt: skip
            for what in ("values_to_be", "min_to_be", "max_to_be"):
                yield f"expect_column_{what}_between", {"column": column, **bound}


def of_several_columns() -> Iterator[tuple[str, dict[str, Any]]]:
    pairs = (["whole", "small"], ["holes", "missing"], ["text", "whole"], ["time", "later"], ["text_holes", "plain"])
    for columns in pairs:
        for ignored in ("all_values_are_missing", "any_value_is_missing", "never"):
            several = {"column_list": columns, "ignore_row_if": ignored}
            yield "expect_compound_columns_to_be_unique", several
            yield "expect_select_column_values_to_be_unique_within_record", several
            yield "expect_multicolumn_values_to_be_equal", several
            yield "expect_multicolumn_sum_to_equal", {**several, "sum_total": 10}
        for ignored in ("both_values_are_missing", "either_value_is_missing", "neither"):
            two = {"column_A": columns[0], "column_B": columns[1], "ignore_row_if": ignored}
            yield "expect_column_pair_values_to_be_equal", two
            yield "expect_column_pair_values_a_to_be_greater_than_b", {**two, "or_equal": True}
            yield "expect_column_pair_values_a_to_be_greater_than_b", two
        yield "expect_column_pair_values_to_be_in_set", {"column_A": columns[0], "column_B": columns[1], "value_pairs_set": [(1, 2), ("a", 1)]}  # fmt: skip


def under_conditions() -> Iterator[tuple[str, dict[str, Any]]]:
    from great_expectations.expectations.conditions import Column

    whole, text = Column("whole"), Column("text")
    conditions = (
        whole > 5, (whole > 5) & (text == "a"), (whole < 2) | (Column("real") > 0), Column("missing").is_null(), Column("nan").is_not_null(),
        text.is_in(["a", "bb"]), Column("text_holes") != "a", Column("holes") != 3, Column("holes").is_not_in([1, 2]), whole > 1000,
    )  # fmt: skip
    judged = (
        ("expect_column_values_to_be_between", {"column": "real", "min_value": 0}),
        ("expect_column_values_to_not_be_null", {"column": "missing"}),
        ("expect_column_mean_to_be_between", {"column": "missing", "min_value": 0}),
        ("expect_column_median_to_be_between", {"column": "missing", "min_value": 0}),
        ("expect_column_values_to_be_unique", {"column": "whole"}),
        ("expect_compound_columns_to_be_unique", {"column_list": ["whole", "small"]}),
        ("expect_column_values_to_match_regex", {"column": "plain", "regex": "^C00[01]"}),
        ("expect_table_row_count_to_be_between", {"min_value": 40}),
    )
    for condition, (name, kwargs) in product(conditions, judged):
        yield name, {**kwargs, "row_condition": condition}
    yield judged[0][0], {**judged[0][1], "row_condition": "whole > 5", "condition_parser": "pandas"}


def of_the_table(columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "expect_table_row_count_to_equal", {"value": ROWS}
    yield "expect_table_row_count_to_be_between", {"max_value": 10}
    yield "expect_table_columns_to_match_set", {"column_set": ["whole"]}
    yield "expect_table_columns_to_match_set", {"column_set": columns}
    yield "expect_table_columns_to_match_ordered_list", {"column_list": columns}
    yield "expect_table_column_count_to_equal", {"value": 3}
    yield "expect_table_column_count_to_be_between", {"min_value": 2}


def everything(columns: list[str]) -> list[Any]:
    import_gx()
    from great_expectations.expectations.registry import get_expectation_impl

    made = (
        *of_any_column(columns), *of_numbers(), *of_texts_and_times(), *of_several_columns(), *under_conditions(),
        *of_the_table(columns),
    )  # fmt: skip
    objects = []
    for name, kwargs in made:
        try:
            objects.append(get_expectation_impl(name)(**kwargs))
        except ValueError:  # Great Expectations itself refuses an empty set here and there
            assert kwargs.get("value_set") == []
    return objects


def on_pandas(frame: pd.DataFrame, objects: list[Any], parameters: Any = None) -> list[Any]:
    """Return what Great Expectations says; it takes longer for many expectations at once than for as many in parts."""
    return [
        result
        for first in range(0, len(objects), AT_ONCE)
        for result in _on_pandas(frame, objects[first : first + AT_ONCE], parameters)
    ]


def _on_pandas(frame: pd.DataFrame, objects: list[Any], parameters: Any) -> list[Any]:
    batch = (
        Engine().context.data_sources.add_pandas("p").add_dataframe_asset("t").add_batch_definition_whole_dataframe("b")
    )
    numbered = [_numbered(one, number) for number, one in enumerate(objects)]
    result = check_batch(batch, numbered, "t", "SUMMARY", parameters, {"dataframe": frame})
    found = {one.expectation_config.meta[_NUMBER]: one for one in result.results}
    return [found[number] for number in range(len(objects))]


def ours(folder: Path, path: Path | None, frame: pd.DataFrame, objects: list[Any], parameters: Any = None) -> Any:
    with open_duckdb(folder, *([path.parent] if path else [])) as connection:
        db = InterruptibleDuckDB(connection)
        data: Data = open_files(db, "t", [path]) if path else open_frame(db, "t", frame)
        return Engine().check(data, objects, suite_name="t", parameters=parameters)


def plain(value: Any) -> Any:
    """A result without what does not matter: the last digits, the order of a list, 2 or 2.0."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if value is pd.NaT:
        return None
    if isinstance(value, int | float):
        return None if value != value else float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return sorted(str(plain(v)) for v in value) if isinstance(value, list | tuple) else value


def compared(result: Any) -> Any:
    facts = result.result or {}
    return bool(result.success), {key: plain(facts.get(key)) for key in COMPARED}


def differences(objects: list[Any], outcome: Any, reference: list[Any]) -> list[str]:
    return [
        f"{one.expectation_type} {one.configuration.kwargs}: ours {compared(mine)}, pandas {compared(theirs)}"
        for one, mine, theirs in zip(objects, outcome.result.results, reference, strict=True)
        # Where pandas cannot answer, ours may.
        if not _raised(theirs) and compared(mine) != compared(theirs)
    ]


@pytest.mark.parametrize("rows", [ROWS, 1, 0])
def test_every_expectation_says_the_same(tmp_path: Path, rows: int) -> None:
    table = nasty(rows, seed=rows)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=30)
    frame = pd.read_parquet(tmp_path / "t.parquet")
    objects = everything(list(table.column_names))
    objects = objects if rows == ROWS else objects[::4]
    reference = on_pandas(frame, objects)
    outcome = ours(tmp_path, tmp_path / "t.parquet", frame, objects)
    assert differences(objects, outcome, reference) == []
    if rows != ROWS:
        return
    some = slice(None, None, 4)
    assert differences(objects[some], ours(tmp_path, None, frame, objects[some]), reference[some]) == []
    by_sql = {one.expectation_type for number, one in enumerate(objects) if number not in outcome.on_pandas}
    assert by_sql == set(_ANSWERS) - SQL_ONLY
    assert len(objects) > 600
    assert len(outcome.on_pandas) < 0.4 * len(objects)
    assert "SQL could not answer" not in outcome.on_pandas.values()


def test_the_benchmark_compares_like_with_like(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", 3000)
    frame, objects = pd.read_parquet(tmp_path / "b.parquet"), benchmarked()
    outcome = ours(tmp_path, tmp_path / "b.parquet", frame, objects)
    assert outcome.on_pandas == {}
    assert differences(objects, outcome, on_pandas(frame, objects)) == []


def test_the_suites_of_the_repository_run_on_sql(tmp_path: Path) -> None:
    from operators.core.storage import Storage
    from operators.demo.seed import seed_flights

    seed_flights(Storage(f"file://{tmp_path}"), months=[1])
    for table in ("flights", "weather"):
        path = tmp_path / f"raw/{table}/2013-01.parquet"
        objects = implementations(load_suites(INCLUDE / "expectations/flight_delay.yaml").tables[table].expectations)
        values = {"window_hours": 744, "window_days": 31}
        outcome = ours(tmp_path, path, None, objects, values)  # type: ignore[arg-type]
        assert list(outcome.on_pandas.values()) in (
            [],
            ["there are NULLs: in pandas NULL equals NULL, in SQL it equals nothing"],
        )
        assert differences(objects, outcome, on_pandas(pd.read_parquet(path), objects, values)) == []
