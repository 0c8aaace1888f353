from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators.core.dataset import Dataset, Snapshot, TableSource, Window, build, snapshot
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.loader import INCLUDE
from operators.core.settings import PROJECT_ROOT
from operators.core.storage import Storage
from operators.demo.seed import DAMAGE, damage, seed_flights
from operators.validation.policy import Expectation, column_findings, finding
from operators.validation.report import ValidationReport, verdict
from operators.validation.snapshots.client import require_passed, validate
from operators.validation.snapshots.operators import ValidateSnapshotOperator
from operators.validation.suites import Suites, load_suites

SUITES = INCLUDE / "expectations/flight_delay.yaml"
SQL = (INCLUDE / "queries/flight_delay.sql").read_text()
WINDOW = Window(start=datetime(2013, 1, 1), end=datetime(2013, 3, 1))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(f"file://{tmp_path_factory.mktemp('store')}")
    seed_flights(storage, months=[1, 2])
    return storage


@pytest.fixture(scope="module")
def suites() -> Suites:
    return load_suites(SUITES)


def freeze(storage: Storage, root: str, window: Window = WINDOW) -> Snapshot:
    tables = {
        "flights": TableSource(source=f"{root}/flights", time_column="sched_dep_at"),
        "weather": TableSource(source=f"{root}/weather", time_column="observed_at"),
    }
    return snapshot(tables, window, storage, "snapshots")


def run(storage: Storage, suites: Suites, frozen: Snapshot, sql: str = SQL) -> ValidationReport:
    def make(local: Any) -> Dataset:
        return build(frozen, sql, {"as_of": WINDOW.end}, storage=storage, prefix="datasets", local=local)

    return validate(frozen, suites, storage=storage, prefix="validation/flight_delay/run", build=make)


def test_clean_data_becomes_a_dataset_with_a_report(storage: Storage, suites: Suites) -> None:
    report = run(storage, suites, freeze(storage, "raw"))
    assert report.passed
    assert require_passed(report).rows == 51_955
    # The source has one impossible wind speed. It is listed, and does not stop anything.
    assert [(f.severity, f.sample) for f in report.failures] == [("warning", ("1048.36058",))]
    assert ValidationReport.model_validate_json(storage.get_bytes("validation/flight_delay/run/report.json")) == report
    docs = storage.list("validation/flight_delay/run/docs")
    assert sum("/validations/" in key for key in docs) == 3
    assert report.docs_url == storage.url("validation/flight_delay/run/docs/index.html")


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_damage_stops(storage: Storage, suites: Suites, kind: str) -> None:
    report = run(storage, suites, freeze(storage, damage(storage, 2, [kind])))
    assert not report.passed
    assert report.dataset is None
    with pytest.raises(RejectedError, match="data REFUSED"):
        require_passed(report)


def test_all_damage_is_reported_at_once_and_with_numbers(storage: Storage, suites: Suites) -> None:
    root = damage(storage, 2, ["renamed_column", "distance_in_metres", "half_weather"])
    text = run(storage, suites, freeze(storage, root)).text()
    assert "column wind_speed is missing from weather in 2013-02.parquet; perhaps it is now called wind_kph" in text
    assert "24,951 of 51,955 rows" in text
    assert "expected at least 3,823 and at most 4,251 rows, found 3,230" in text
    only_february = Window(start=datetime(2013, 2, 1), end=WINDOW.end)
    text = run(storage, suites, freeze(storage, root, only_february)).text()
    assert "column wind_speed is missing from weather; perhaps it is now called wind_kph" in text
    assert "Traceback" not in text


def test_text_in_a_number_column_is_a_finding(storage: Storage, suites: Suites, tmp_path: Path) -> None:
    other = Storage(f"file://{tmp_path}")
    for table, select in (("flights", "*"), ("weather", "* REPLACE (temp || ' F' AS temp)")):
        (tmp_path / f"raw/{table}").mkdir(parents=True)
        source = storage.url(f"raw/{table}/2013-02.parquet").removeprefix("file://")
        duckdb.execute(f"COPY (SELECT {select} FROM '{source}') TO '{tmp_path}/raw/{table}/1.parquet' (FORMAT parquet)")
    report = run(other, suites, freeze(other, "raw", Window(start=datetime(2013, 2, 1), end=WINDOW.end)))
    assert [f.column for f in report.findings if f.stops] == ["temp"]
    assert "the column is VARCHAR" in report.text()


def test_a_query_that_fails_is_in_the_report(storage: Storage, suites: Suites) -> None:
    report = run(storage, suites, freeze(storage, "raw"), "SELECT nope FROM flights")
    assert not report.passed
    assert "nope" in report.text()


QUARANTINE = """
weather:
  quarantine: {max_rows_pct: 1}
  expectations:
    - {type: expect_column_values_to_be_between, kwargs: {column: wind_speed, max_value: 120}, meta: {notes: wind is in mph}}
dataset:
  expectations:
    - type: expect_column_values_to_be_between
      kwargs: {column: distance, max_value: 2700}
      quarantine: {max_rows_pct: 10}
      meta: {notes: not beyond the continent}
    - {type: expect_column_values_to_be_unique, kwargs: {column: flight_id}}
"""


def test_training_goes_on_without_the_rows_that_a_suite_sets_aside(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(QUARANTINE)
    report = run(storage, load_suites(tmp_path / "suite.yaml"), freeze(storage, "raw"))
    dataset = require_passed(report)
    aside = {table: (found.rows, found.of_rows) for table, found in report.quarantined.items()}
    assert aside == {"weather": (1, 4236), "dataset": (51_955 - dataset.rows, 51_955)}
    bad = duckdb.sql(f"FROM '{report.quarantined['weather'].uri.removeprefix('file://')}'").df()
    assert bad["wind_speed"].round().tolist() == [1048]
    assert bad["quarantine_reasons"].tolist()[0].tolist() == ["wind is in mph"]
    # The rows that go on are a dataset of their own; the one that was built is still there.
    path = storage.url(dataset.key).removeprefix("file://")
    assert duckdb.sql(f"SELECT count(*), max(distance), max(wind_speed) < 120 FROM '{path}'").fetchall() == [
        (dataset.rows, 2586.0, True)
    ]
    assert "rows of weather were set aside" in report.text()
    assert ValidationReport.model_validate_json(storage.get_bytes("validation/flight_delay/run/report.json")) == report
    assert json.loads(json.dumps(report.to_xcom()))["quarantined"]["weather"]["rows"] == 1


def test_more_than_the_limit_stops_the_run(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(QUARANTINE.replace("max_value: 2700", "max_value: 700"))
    report = run(storage, load_suites(tmp_path / "suite.yaml"), freeze(storage, "raw"))
    assert not report.passed
    assert "at most 10 % may be set aside" in report.text()
    assert "dataset" not in report.quarantined


def write(path: Path, expectation: str) -> Path:
    first = "- type: expect_table_row_count_to_equal\n      kwargs: {value: 1}"
    path.write_text(f"weather:\n  expectations:\n    {first}\n    - {expectation}\n")
    return path


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        (
            "{type: expect_column_value_to_be_between, kwargs: {column: a}}",
            "did you mean 'expect_column_values_to_be_between'?",
        ),
        (
            "{type: expect_column_values_to_be_between, kwargs: {column: a, min_vale: 1}}",
            "has no argument 'min_vale'; did you mean 'min_value'?",
        ),
        (
            "{type: expect_column_values_to_be_between, kwargs: {column: a}}",
            "min_value and max_value cannot both be None",
        ),
        (
            "{type: expect_column_to_exist, kwargs: {column: a}, severity: fatal}",
            "severity: should be 'critical'",
        ),
        ("{type: expect_column_to_exist, kwarg: {column: a}}", "unknown key 'kwarg'; did you mean 'kwargs'?"),
        (
            "{type: expect_column_to_exist, kwargs: {column: a}, quarantine: {max_rows_pct: 1}}",
            "is not about single rows, so no rows can be set aside for it",
        ),
        (
            "{type: expect_column_values_to_be_unique, kwargs: {column: a}, quarantine: {max_rows_pct: 101}}",
            "quarantine.QuarantineLimit.max_rows_pct: should be less than or equal to 100",
        ),
        ("expect_column_to_exist", "an expectation is a mapping"),
    ],
)
def test_a_typo_is_reported_with_its_line(tmp_path: Path, expectation: str, message: str) -> None:
    path = write(tmp_path / "suite.yaml", expectation)
    with pytest.raises(ConfigurationError) as caught:
        load_suites(path)
    assert str(caught.value).startswith(f"{path}:5: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            "t: {quarantine: {max_rows_pct: 1, max_row: 3}, expectations: [{type: a}]}",
            "1: max_row: unknown key; did you mean 'max_rows'?",
        ),
        (
            "t: {quarantin: {max_rows_pct: 1}, expectations: [{type: a}]}",
            "unknown key 'quarantin'; did you mean 'quarantine'",
        ),
        ("t: {expectations: []}", "needs a list `expectations`"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, suite: str, message: str) -> None:
    (tmp_path / "suite.yaml").write_text(suite)
    with pytest.raises(ConfigurationError, match=message):
        load_suites(tmp_path / "suite.yaml")


def test_a_suite_for_an_unknown_table_is_refused(storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("wether:\n  expectations: [{type: expect_column_to_exist, kwargs: {column: a}}]\n")
    with pytest.raises(ConfigurationError, match="did you mean 'weather'"):
        run(storage, load_suites(path), freeze(storage, "raw"))


def test_two_expectations_of_one_type_and_column_both_run(suites: Suites, storage: Storage) -> None:
    report = run(storage, suites, freeze(storage, "raw"))
    assert len(report.findings) == sum(len(suite.expectations) for suite in suites.tables.values())


class TestPolicy:
    between = Expectation(type="expect_column_values_to_be_between", kwargs={"column": "wind_speed", "min_value": 0})

    def test_what_was_not_checked_is_not_accepted(self) -> None:
        assert verdict([], complete=True)
        assert not verdict([], complete=False)

    def test_only_critical_findings_stop(self) -> None:
        result = {"success": False, "result": {"unexpected_count": 1}}
        bad = finding("t", self.between, result, 10, None)
        assert not verdict([bad], complete=True)
        assert verdict([bad.model_copy(update={"severity": "warning"})], complete=True)

    def test_a_lone_new_column_is_the_likely_new_name(self) -> None:
        found = column_findings("weather", [self.between], ["v"], {})
        assert found[0].detail == "column wind_speed is missing from weather; perhaps it is now called v"

    def test_without_a_likely_name_none_is_guessed(self) -> None:
        found = column_findings("weather", [self.between], ["a", "b"], {})
        assert found[0].detail == "column wind_speed is missing from weather"


class _TaskInstance(SimpleNamespace):
    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed = {key: json.loads(json.dumps(value))}


def operator(storage: Storage, frozen: Snapshot) -> ValidateSnapshotOperator:
    return ValidateSnapshotOperator(
        task_id="validate",
        model="flight_delay",
        snapshot=frozen.model_dump(mode="json"),
        suite_path="expectations/flight_delay.yaml",
        query_path="queries/flight_delay.sql",
        run_key="scheduled",
        storage_root=storage.root,
    )


def test_the_operator_returns_the_dataset(storage: Storage) -> None:
    ti = _TaskInstance()
    dataset = Dataset.model_validate(operator(storage, freeze(storage, "raw")).execute({"ti": ti}))
    assert storage.exists(dataset.key)
    assert ti.pushed["report"]["passed"] is True


def test_the_operator_fails_for_good_and_keeps_the_report(storage: Storage) -> None:
    ti = _TaskInstance()
    frozen = freeze(storage, damage(storage, 2, ["temp_in_kelvin"]))
    with pytest.raises(AirflowFailException, match=r"temperature is in °F.*2,010 of 4,236 rows"):
        operator(storage, frozen).execute({"ti": ti})
    assert ti.pushed["report"]["failures"][0]["column"] == "temp"
    assert not json.loads(storage.get_bytes("validation/flight_delay/scheduled/report.json"))["passed"]


FORKED = """
import os, sys
import great_expectations  # Airflow forks its tasks: what the parent imported must work in the child
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import json
from tests.unit.validation.test_snapshots import SUITES, Snapshot, Storage, load_suites, run
report = run(Storage(sys.argv[1]), load_suites(SUITES), Snapshot.model_validate(json.loads(sys.argv[2])))
os._exit(0 if report.passed else 9)
"""


def test_it_runs_in_a_forked_process(storage: Storage) -> None:
    frozen = json.dumps(freeze(storage, "raw").model_dump(mode="json"))
    done = subprocess.run([sys.executable, "-c", FORKED, storage.root, frozen], cwd=PROJECT_ROOT, timeout=300)
    assert done.returncode == 0
