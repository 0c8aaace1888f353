"""The Great Expectations operators by themselves, on a file with one bad row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import dag, get_current_context, task

from operators import ValidateBatchOperator, ValidateCheckpointOperator, ValidateOperator

ROWS = 100


def folder() -> Path:
    return Path(get_current_context()["params"]["folder"])


@task
def write() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    prices = [-1.0 if number == 57 else float(number) for number in range(ROWS)]
    pq.write_table(pa.table({"id": list(range(ROWS)), "price": prices}), folder() / "orders.parquet")


def expectations(_: Any) -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(column="price", min_value=0)


def batch(gx_context: Any) -> Any:
    source = gx_context.data_sources.add_pandas_filesystem("files", base_directory=folder())
    return source.add_parquet_asset("orders").add_batch_definition_path("all", path="orders.parquet")


def checkpoint(gx_context: Any) -> Any:
    import great_expectations as gx

    suite = gx_context.suites.add(gx.ExpectationSuite(name="orders", expectations=[expectations(None)]))
    checks = gx.ValidationDefinition(name="orders", data=batch(gx_context), suite=suite)
    return gx_context.checkpoints.add(
        gx.Checkpoint(name="orders", validation_definitions=[gx_context.validation_definitions.add(checks)])
    )


@dag(schedule=None, catchup=False, params={"folder": "/tmp"})
def gx_alone() -> None:
    storage = "file://{{ params.folder }}/checked"
    write() >> [
        ValidateOperator(
            task_id="quarantined",
            source="{{ params.folder }}/orders.parquet",
            configure_expectations=expectations,
            quarantine={"max_rows_pct": 2, "max_rows": 10},
            storage=storage,
        ),
        ValidateBatchOperator(
            task_id="batch",
            configure_batch_definition=batch,
            configure_expectations=expectations,
            fail_on="never",
            storage=storage,
        ),
        ValidateCheckpointOperator(task_id="checkpoint", configure_checkpoint=checkpoint, storage=storage),
    ]


gx_alone()
