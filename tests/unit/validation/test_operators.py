from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException

from operators.core.settings import PROJECT_ROOT
from operators.validation.gx.operators import ValidateBatchOperator, ValidateCheckpointOperator
from operators.validation.operators import GXValidationFailed, ValidateOperator
from tests.support.validation import SUITE, context, values_between


def orders(**bad: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"id": np.arange(100), "price": np.linspace(0, 10, 100), "country": ["DE", "FR"] * 50})
    for column, value in bad.items():
        frame.loc[7, column] = value
    return frame


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return str(path)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def operator(storage: str, **kwargs: Any) -> ValidateOperator:
    return ValidateOperator(task_id="validate", run_key="orders/run 1", storage=storage, **kwargs)


def read(uri: str) -> pd.DataFrame:
    return duckdb.sql(f"FROM '{uri.removeprefix('file://')}'").df()


@pytest.fixture(params=["parquet", "csv", "frame"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The same orders, from a file or from memory."""

    def make(frame: pd.DataFrame) -> dict[str, Any]:
        if request.param == "frame":
            return {"configure_dataframe": lambda: frame}
        path = tmp_path / f"orders.{request.param}"
        frame.to_parquet(path) if request.param == "parquet" else frame.to_csv(path, index=False)
        return {"source": str(path)}

    return make


def test_good_data_goes_on_and_leaves_its_documents(given: Any, suite: str, storage: str, tmp_path: Path) -> None:
    run, asset = context(), Asset("orders")
    task = operator(storage, suite=suite, outlets=[asset], docs_base_url="https://docs.example/gx/", **given(orders()))
    found = task.execute(run)
    assert found["success"] is True
    assert found["statistics"]["evaluated_expectations"] == 5
    assert found["dataset_uri"] == task.source
    assert run["outlet_events"][asset].extra == {
        "passed": True, "success": True, "checks": 5, "critical": 0, "warning": 0, "info": 0, "rows": 100, "quarantined_rows": 0,
        "quarantine_uri": None, "dataset_uri": task.source, "docs_url": f"{storage}/orders/run 1/docs/index.html",
    }  # fmt: skip
    assert run["ti"].xcoms["_link_DataDocsLink"] == "https://docs.example/gx/orders/run%201/docs/index.html"
    page = (tmp_path / "store/orders/run 1/docs/index.html").read_text()
    assert "orders" in page
    assert json.loads((tmp_path / "store/orders/run 1/result.json").read_text())["success"] is True


def test_bad_rows_are_set_aside_with_their_reasons(given: Any, suite: str, storage: str) -> None:
    run, frame = context(), orders(price=-1.0, country="X")
    found = operator(storage, suite=suite, **given(frame)).execute(run)
    report = run["ti"].xcoms["report"]
    assert (report["passed"], report["success"], report["critical"], report["quarantined_rows"]) == (True, True, 0, 1)
    assert found["success"] is True
    bad = read(report["quarantine_uri"])
    assert bad[["id", "price"]].values.tolist() == [[7, -1.0]]
    # The second expectation is checked by pandas: DuckDB has no negative lookahead.
    assert bad["quarantine_reasons"].tolist()[0].tolist() == [
        "column values to match regex (regex ^(?!X))",
        "no price is negative",
    ]
    pd.testing.assert_frame_equal(
        read(found["dataset_uri"]), frame.drop(index=7).reset_index(drop=True), check_dtype=False
    )
    assert "1 of 100 rows of the data were set aside" in report["text"]
    assert "aside  orders  price" in report["text"]


def test_too_many_bad_rows_stop_and_nothing_is_set_aside(given: Any, suite: str, storage: str) -> None:
    frame, run = orders(), context()
    frame.loc[:2, "price"] = -5.0
    with pytest.raises(GXValidationFailed, match=r"3 of 100 rows; at most 2 % may be set aside"):
        operator(storage, suite=suite, **given(frame)).execute(run)
    assert run["ti"].xcoms["report"]["dataset_uri"] is None
    assert run["ti"].xcoms["return_value"]["success"] is False
    assert not list(Path(storage.removeprefix("file://")).rglob("*.parquet"))


def test_what_is_left_must_pass_the_whole_suite(storage: str, suite: str) -> None:
    frame = orders(price=-1.0).head(90)  # one row fewer is too few
    with pytest.raises(GXValidationFailed, match=r"without 1 rows.*expected at least 90 rows, found 89"):
        operator(storage, suite=suite, configure_dataframe=lambda: frame).execute(context())


def test_all_rows_of_a_doublet_are_set_aside(storage: str, suite: str) -> None:
    run = context()
    operator(storage, suite=suite, configure_dataframe=lambda: orders(id=8)).execute(run)
    assert read(run["ti"].xcoms["report"]["quarantine_uri"])["id"].tolist() == [8, 8]


@pytest.mark.parametrize("many", [300])
def test_every_kind_of_expectation_about_rows_names_them(storage: str, many: int) -> None:
    import great_expectations.expectations as gxe

    frame = pd.DataFrame({"a": np.arange(1000), "b": np.arange(1000) + 1, "c": [f"C{n}" for n in range(1000)]})
    frame.loc[: many - 1, ["a", "b"]] = -1
    frame.loc[: many - 1, "c"] = "x"
    for expectation in (
        gxe.ExpectColumnValuesToBeBetween(column="a", min_value=0),
        gxe.ExpectColumnValuesToBeUnique(column="a"),
        gxe.ExpectColumnValuesToMatchRegex(column="c", regex="^(?!x)"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["a", "b"]),
        gxe.ExpectSelectColumnValuesToBeUniqueWithinRecord(column_list=["a", "b"]),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="b", column_B="a"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="c", min_value=2),
    ):
        run = context()
        given = {"configure_dataframe": lambda: frame, "expect": expectation, "quarantine": {"max_rows_pct": 30}}
        operator(storage, **given).execute(run)
        assert read(run["ti"].xcoms["report"]["quarantine_uri"]).shape == (many, 4)


@pytest.mark.parametrize(
    ("severity", "fail_on", "fails"),
    [
        ("critical", "critical", True),
        ("warning", "critical", False),
        ("warning", "warning", True),
        ("info", "warning", False),
        ("info", "info", True),
        ("critical", "never", False),
    ],
)
def test_severity_and_fail_on(storage: str, severity: str, fail_on: Any, fails: bool) -> None:
    run = context()

    def expectations(_: Any) -> Any:
        import great_expectations.expectations as gxe

        return [gxe.ExpectColumnValuesToBeBetween(column="price", max_value=5, severity=severity)]

    task = operator(storage, configure_dataframe=orders, configure_expectations=expectations, fail_on=fail_on)
    if fails:
        with pytest.raises(GXValidationFailed):
            task.execute(run)
    else:
        task.execute(run)
    report = run["ti"].xcoms["report"]
    assert (report["success"], report["passed"], report[severity]) == (False, not fails, 1)


def test_expectations_may_be_a_suite_or_themselves(storage: str) -> None:
    import great_expectations as gx

    expectation = values_between(None)
    for expect in (expectation, gx.ExpectationSuite(name="mine", expectations=[expectation.copy()])):
        found = operator(storage, configure_dataframe=orders, expect=expect, quarantine={"max_rows_pct": 1}).execute(
            context()
        )
        assert found["success"]
    task = operator(
        storage, configure_dataframe=lambda: orders(price=-1), expect=expectation, quarantine={"max_rows_pct": 1}
    )
    run = context()
    task.execute(run)
    assert run["ti"].xcoms["report"]["quarantined_rows"] == 1


def test_a_column_of_mixed_values_is_checked_and_cannot_be_set_aside(storage: str) -> None:
    import great_expectations.expectations as gxe

    frame = orders().assign(odd=[1, "a"] * 50).astype({"odd": object})
    frame.loc[0, "odd"] = None
    expect = [
        gxe.ExpectColumnValuesToNotBeNull(column="odd"),
        gxe.ExpectColumnValuesToBeInSet(column="odd", value_set=[1, "a"]),
    ]
    with pytest.raises(GXValidationFailed, match=r"column values to not be null +1 of 100 rows"):
        operator(storage, configure_dataframe=lambda: frame, expect=expect).execute(context())
    with pytest.raises(AirflowFailException, match="the column odd has values of several types"):
        operator(storage, configure_dataframe=lambda: frame, expect=expect, quarantine={"max_rows_pct": 5}).execute(
            context()
        )


def test_a_folder_a_pattern_and_what_is_not_there(tmp_path: Path, storage: str) -> None:
    folder = tmp_path / "with space"
    (folder / "deep").mkdir(parents=True)
    orders().head(40).to_parquet(folder / "a.parquet")
    orders().tail(60).to_parquet(folder / "b.parquet")
    (folder / "notes.txt").write_text("no data")
    for source, rows in (
        (str(folder), 100),
        (f"{folder}/a*.parquet", 40),
        (f"file://{folder}/b.parquet".replace(" ", "%20"), 60),
    ):
        run = context()
        operator(storage, source=source, configure_expectations=values_between).execute(run)
        assert run["ti"].xcoms["report"]["rows"] == rows
    (folder / "deep/c.csv").write_text("price\n1\n")
    for source, message in (
        (str(folder), "several or unknown formats"),
        (f"{folder}/none.parquet", "there is no file"),
        (f"{folder}/*.csv", "there are no Parquet or CSV files"),
        ("orders.parquet", "write s3://bucket/key, file:///path or an absolute path"),
    ):
        with pytest.raises(AirflowFailException, match=message):
            operator(storage, source=source, configure_expectations=values_between).execute(context())


def test_rows_of_several_files_are_told_apart(tmp_path: Path, storage: str, suite: str) -> None:
    (tmp_path / "parts").mkdir()
    orders().head(50).to_parquet(tmp_path / "parts/1.parquet")
    orders().tail(50).assign(price=lambda f: f["price"].where(f["id"] != 57, -1.0)).to_parquet(
        tmp_path / "parts/2.parquet"
    )
    run = context()
    found = operator(storage, source=str(tmp_path / "parts"), suite=suite).execute(run)
    assert read(run["ti"].xcoms["report"]["quarantine_uri"])["id"].tolist() == [57]
    assert read(found["dataset_uri"])["id"].tolist() == [n for n in range(100) if n != 57]


def test_a_missing_column_is_said_in_words(storage: str, suite: str) -> None:
    frame = orders().rename(columns={"price": "prices"})
    with pytest.raises(
        GXValidationFailed, match="column price is missing from orders; perhaps it is now called prices"
    ):
        operator(storage, configure_dataframe=lambda: frame, suite=suite).execute(context())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one of configure_expectations, expect, suite; got none"),
        ({"suite": "a", "expect": 1}, "got expect, suite"),
        ({"suite": "a"}, "give exactly one of source, configure_dataframe, table, query; got none"),
        ({"suite": "a", "source": "b", "table": "c"}, "got source, table"),
        ({"suite": "a", "table": "b"}, "needs conn_id"),
        ({"suite": "a", "source": "b", "context_type": "cloud"}, "ValidateBatchOperator"),
    ],
)
def test_wrong_arguments_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValidateOperator(task_id="validate", **arguments)


def test_the_whole_result_stays_out_of_xcom(storage: str) -> None:
    frame = pd.DataFrame({"price": np.arange(1000.0) - 1000})
    run = context()
    with pytest.raises(GXValidationFailed):
        operator(
            storage, configure_dataframe=lambda: frame, configure_expectations=values_between, result_format="COMPLETE"
        ).execute(run)
    shown = run["ti"].xcoms["return_value"]["expectations"][0]["result"]
    assert len(shown["unexpected_list"]) == 20
    kept = json.loads(Path(f"{storage.removeprefix('file://')}/orders/run 1/result.json").read_text())
    assert len(kept["expectations"][0]["result"]["unexpected_list"]) == 200  # as many as Great Expectations gives


def test_the_log_says_what_pandas_checked(storage: str, suite: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        operator(storage, configure_dataframe=orders, suite=suite).execute(context())
    assert (
        "expect_column_values_to_match_regex: checked by pandas: DuckDB does not know the regular expression"
        in caplog.text
    )


def batch(gx_context: Any) -> Any:
    frame = orders(price=-1)
    asset = gx_context.data_sources.add_pandas("p").add_dataframe_asset("orders")
    definition = asset.add_batch_definition_whole_dataframe("all")
    definition.build_batch_request({"dataframe": frame})
    return definition


def test_a_batch_of_any_data_source(tmp_path: Path, storage: str) -> None:
    orders(price=-1).to_csv(tmp_path / "orders.csv", index=False)

    def configured(gx_context: Any) -> Any:
        source = gx_context.data_sources.add_pandas_filesystem("files", base_directory=tmp_path)
        return source.add_csv_asset("orders").add_batch_definition_path("all", path="orders.csv")

    task = ValidateBatchOperator(
        task_id="validate",
        configure_batch_definition=configured,
        configure_expectations=values_between,
        storage=storage,
        run_key="batch",
    )
    run = context()
    with pytest.raises(GXValidationFailed, match="1 of 100 rows"):
        task.execute(run)
    assert run["ti"].xcoms["return_value"]["statistics"]["unsuccessful_expectations"] == 1
    assert (tmp_path / "store/batch/docs/index.html").is_file()


@pytest.mark.parametrize("kind", ["ephemeral", "file", "generator"])
def test_a_checkpoint_with_its_actions(tmp_path: Path, storage: str, kind: str) -> None:
    import great_expectations as gx

    orders(price=-1).to_parquet(tmp_path / "orders.parquet")
    after: list[str] = []

    def file_context() -> Any:
        return gx.get_context(mode="file", project_root_dir=tmp_path / "project")

    def yielded() -> Any:
        yield file_context()
        after.append("put back")

    def configured(gx_context: Any) -> Any:
        source = gx_context.data_sources.add_pandas_filesystem("files", base_directory=tmp_path)
        definition = source.add_parquet_asset("orders").add_batch_definition_path("all", path="orders.parquet")
        suite = gx_context.suites.add(gx.ExpectationSuite(name="orders", expectations=[values_between(None)]))
        checks = gx_context.validation_definitions.add(gx.ValidationDefinition(name="v", data=definition, suite=suite))
        return gx_context.checkpoints.add(gx.Checkpoint(name="c", validation_definitions=[checks]))

    files = {"ephemeral": None, "file": file_context, "generator": yielded}[kind]
    task = ValidateCheckpointOperator(
        task_id="validate",
        configure_checkpoint=configured,
        context_type="ephemeral" if files is None else "file",
        configure_file_data_context=files,
    )
    run = context()
    with pytest.raises(GXValidationFailed, match="1 of 100 rows"):
        task.execute(run)
    assert run["ti"].xcoms["return_value"]["statistics"]["unsuccessful_validations"] == 1
    assert after == (["put back"] if kind == "generator" else [])


def test_a_checkpoint_of_a_file_context_needs_one() -> None:
    with pytest.raises(ValueError, match="together, or neither"):
        ValidateCheckpointOperator(task_id="validate", configure_checkpoint=batch, context_type="file")


def test_a_dag_file_pays_nothing_for_it() -> None:
    heavy = "great_expectations pandas numpy duckdb pyarrow obstore"
    code = (
        "import airflow.sdk, sqlalchemy, sys; before = set(sys.modules); "
        "import operators.validation.gx.operators, operators.validation.snapshots.operators; "
        f"print([m for m in '{heavy}'.split() if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, timeout=300, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
