from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.cli.main import EXIT_CONFIGURATION, main
from operators.core.storage import Storage
from operators.demo.seed import seed_flights
from operators.validation.draft import Column, Table, rounded, sketch
from operators.validation.operators import ValidateOperator
from operators.validation.policy import Expectation
from operators.validation.suites import load_suites
from tests.support.validation import context


def failures(source: Path, suite: Path, tmp_path: Path, **parameters: float) -> list[str]:
    run = context()
    ValidateOperator(
        task_id="t", source=str(source), suite=str(suite), fail_on="never", run_key="r", storage=f"file://{tmp_path}/store",
        suite_parameters=parameters,
    ).execute(run)  # fmt: skip
    return [f"{f['column']}: {f['expectation']}" for f in run["ti"].xcoms["report"]["failures"]]


def odd(rows: int = 400) -> pd.DataFrame:
    """Columns that are hard to draft for."""
    rng = np.random.default_rng(5)
    index = np.arange(rows)
    return pd.DataFrame(
        {
            "id": index,
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(index, unit="h"),
            "code": [f"AB{n % 37:03}" for n in index],
            "it's": ["o'neil", 'say "hi"', "ünï", "null", "1", "yes", "- a: b"] * (rows // 7) + ["1"] * (rows % 7),
            "negative": -rng.random(rows) * 1e-7,
            "huge": rng.random(rows) * 1e12,
            "one": 3.0,
            "holes": np.where(rng.random(rows) < 0.3, np.nan, 1.5),
            "nothing": np.full(rows, np.nan),
            "endless": np.where(index == 3, np.inf, 1.0),
            "flag": index % 2 == 0,
            "free": ["x" * (n % 50) for n in index],
        }
    )


def test_a_drafted_suite_passes_on_its_reference(tmp_path: Path) -> None:
    odd().to_parquet(tmp_path / "odd.parquet")
    suite = tmp_path / "suite.yaml"
    assert main(["suite", "draft", str(tmp_path / "odd.parquet"), "-o", str(suite)]) == 0
    assert failures(tmp_path / "odd.parquet", suite, tmp_path) == []
    _, drafted = load_suites(suite).only()
    said = {(e.type, e.kwargs.get("column")): e for e in drafted.expectations}
    assert said["expect_column_values_to_be_unique", "id"].severity == "critical"
    assert said["expect_column_values_to_match_regex", "code"].kwargs["regex"] == "^[0-9A-Z]{5}$"
    assert set(said["expect_column_values_to_be_in_set", "it's"].kwargs["value_set"]) == set(odd()["it's"])
    assert said["expect_column_values_to_not_be_null", "holes"].kwargs["mostly"] < 0.75
    assert ("expect_column_values_to_be_between", "id") not in said


def test_a_window_of_real_data_and_what_a_damaged_month_breaks(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    seed_flights(storage, months=[1, 2])
    suite, source = tmp_path / "suite.yaml", tmp_path / "store/raw/weather"
    window = ["--time-column", "observed_at", "--start", "2013-01-01", "--end", "2013-02-01"]
    assert main(["suite", "draft", str(source), *window, "--name", "weather", "-o", str(suite)]) == 0
    assert failures(source / "2013-01.parquet", suite, tmp_path, window_hours=31 * 24) == []
    warm = pd.read_parquet(source / "2013-01.parquet").assign(temp=lambda frame: frame["temp"] + 273)
    warm.to_parquet(tmp_path / "warm.parquet")
    assert [text.split(":")[0] for text in failures(tmp_path / "warm.parquet", suite, tmp_path, window_hours=744)] == [
        "temp"
    ] * 2


def test_csv_and_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("n,city\n" + "\n".join(f"{n},Ulm" for n in range(200)))
    assert main(["suite", "draft", str(tmp_path / "*.csv"), "--name", "cities"]) == 0
    text = capsys.readouterr().out
    assert "\ncities:\n" in text
    assert "value_set: [Ulm]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "2026-01-01"], "--time-column"),
        (["--time-column", "code"], "the time column code is VARCHAR"),
        (["--time-column", "when"], "the time column when is missing"),
        (["--time-column", "at", "--start", "2030-01-01"], "no row between --start and --end"),
        (["-o", "{there}"], "somebody may have edited it"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    odd(20).to_parquet(tmp_path / "odd.parquet")
    (tmp_path / "there.yaml").write_text("")
    filled = [a.format(there=tmp_path / "there.yaml") for a in arguments]
    assert main(["suite", "draft", str(tmp_path / "odd.parquet"), *filled]) == EXIT_CONFIGURATION
    assert message in capsys.readouterr().err


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_rounding_leaves_what_was_seen_inside(value: float) -> None:
    assert rounded(value, up=False) <= value <= rounded(value, up=True)


@given(rows=st.integers(1, 10**6), nulls=st.floats(0, 1), margin=st.floats(0, 100))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_share_that_is_known_is_below_what_was_seen(rows: int, nulls: float, margin: float) -> None:
    column = Column(name="a", kind="other", nulls=round(rows * nulls))
    for expectation in sketch(Table(rows=rows, columns=(column,)), margin_pct=margin):
        assert expectation.kwargs.get("mostly", 0) <= 1 - column.nulls / rows


def test_a_window_counts_its_rows_by_the_hour() -> None:
    found: Expectation = sketch(Table(rows=744 * 3, hours=744, columns=()), margin_pct=10)[1]
    assert found.kwargs == {
        "min_value": {"$PARAMETER": "window_hours * 1.5"},
        "max_value": {"$PARAMETER": "window_hours * 6"},
    }
