"""What a validation costs: our engine against plain Great Expectations on pandas, on the same data and expectations.

1 million rows, 20 columns, 40 expectations. Each run has a process of its own, so that its peak of memory is its own; imports are
not timed. Prints JSON: the median and the least of the rounds' seconds, CPU and memory, and how many times faster ours is.

``file``: from a Parquet file to the answer. ``frame``: from a data frame that is in memory already, which flatters the rival: its
reading costs nothing. The rival writes no Data Docs; ours is measured without (``ours``), and as the operator runs it, with Data
Docs and the full result (``operator``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VALUES = "expect_column_values_to_"
BOUNDS: dict[str, tuple[float, float]] = {
    "price": (0, 1000),
    "discount": (0, 0.3),
    "quantity": (1, 9),
    "weight_kg": (0, 10),
    "score": (0, 1),
    "age_days": (0, 120),
    "hour": (0, 23),
    "latitude": (-90, 90),
    "longitude": (-180, 180),
}
COLUMNS = """
    range AS order_id,
    'C' || lpad((hash(range) % 200000)::VARCHAR, 7, '0') AS customer,
    (ARRAY['DE','FR','US','GB','ES','IT'])[1 + (hash(range + 1) % 6)::INT] AS country,
    (ARRAY['EUR','USD','GBP'])[1 + (hash(range + 2) % 3)::INT] AS currency,
    (ARRAY['new','paid','sent','done','returned'])[1 + (hash(range + 3) % 5)::INT] AS status,
    'user' || (hash(range + 4) % 500000) || '@example.com' AS email,
    TIMESTAMP '2026-01-01' + to_seconds(range * 5) AS created_at,
    TIMESTAMP '2026-01-01' + to_seconds(range * 5 + hash(range + 5) % 86400) AS shipped_at,
    (hash(range + 6) % 100000)::DOUBLE / 100 AS price,
    CASE WHEN hash(range + 7) % 20 > 0 THEN (hash(range + 8) % 3000)::DOUBLE / 10000 END AS discount,
    (1 + hash(range + 9) % 9)::INTEGER AS quantity,
    CASE WHEN hash(range + 10) % 50 > 0 THEN (hash(range + 11) % 10000)::DOUBLE / 1000 END AS weight_kg,
    (hash(range + 12) % 1000)::DOUBLE / 1000 AS score,
    (hash(range + 13) % 120)::INTEGER AS age_days,
    (hash(range + 14) % 24)::INTEGER AS hour,
    ((hash(range + 15) % 180)::BIGINT - 90)::DOUBLE AS latitude,
    ((hash(range + 16) % 360)::BIGINT - 180)::DOUBLE AS longitude,
    lpad((hash(range + 17) % 100000)::VARCHAR, 5, '0') AS zip,
    hash(range + 18) % 2 = 0 AS gift,
    CASE WHEN hash(range + 19) % 10 = 0 THEN 'note ' || range END AS comment
"""


def write(path: Path, rows: int) -> None:
    """Write the data."""
    import duckdb

    duckdb.connect().execute(
        f"COPY (SELECT {COLUMNS} FROM range({rows})) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
    )


def expectations() -> list[Any]:
    """Return the 40 expectations, all of which hold."""
    from great_expectations.expectations.registry import get_expectation_impl

    countries, currencies = ["DE", "FR", "US", "GB", "ES", "IT"], ["EUR", "USD", "GBP"]
    wanted: list[tuple[str, dict[str, Any]]] = [
        *(
            (f"{VALUES}not_be_null", {"column": c})
            for c in ("order_id", "customer", "country", "created_at", "price", "status")
        ),
        (f"{VALUES}not_be_null", {"column": "discount", "mostly": 0.9}),
        (f"{VALUES}not_be_null", {"column": "weight_kg", "mostly": 0.95}),
        (f"{VALUES}be_null", {"column": "comment", "mostly": 0.8}),
        *(
            (f"{VALUES}be_between", {"column": c, "min_value": low, "max_value": high})
            for c, (low, high) in BOUNDS.items()
        ),
        (f"{VALUES}be_between", {"column": "price", "min_value": 0, "max_value": 900, "mostly": 0.85}),
        (f"{VALUES}be_in_set", {"column": "country", "value_set": countries}),
        (f"{VALUES}be_in_set", {"column": "currency", "value_set": currencies}),
        (f"{VALUES}be_in_set", {"column": "status", "value_set": ["new", "paid", "sent", "done", "returned"]}),
        (f"{VALUES}not_be_in_set", {"column": "zip", "value_set": ["00000x"]}),
        (f"{VALUES}match_regex", {"column": "customer", "regex": "^C[0-9]{7}$"}),
        (f"{VALUES}match_regex", {"column": "email", "regex": r"^[^@ ]+@[^@ ]+\.[a-z]+$"}),
        ("expect_column_value_lengths_to_equal", {"column": "zip", "value": 5}),
        ("expect_column_value_lengths_to_be_between", {"column": "email", "min_value": 5, "max_value": 60}),
        (f"{VALUES}be_unique", {"column": "order_id"}),
        ("expect_compound_columns_to_be_unique", {"column_list": ["order_id", "created_at"]}),
        ("expect_column_mean_to_be_between", {"column": "price", "min_value": 400, "max_value": 600}),
        ("expect_column_mean_to_be_between", {"column": "score", "min_value": 0.4, "max_value": 0.6}),
        ("expect_column_median_to_be_between", {"column": "weight_kg", "min_value": 4, "max_value": 6}),
        ("expect_column_stdev_to_be_between", {"column": "price", "min_value": 200, "max_value": 400}),
        ("expect_column_min_to_be_between", {"column": "quantity", "min_value": 1, "max_value": 1}),
        ("expect_column_max_to_be_between", {"column": "quantity", "min_value": 9, "max_value": 9}),
        ("expect_column_sum_to_be_between", {"column": "quantity", "min_value": 1}),
        (
            "expect_column_unique_value_count_to_be_between",
            {"column": "customer", "min_value": 1, "max_value": 200_000},
        ),
        ("expect_column_distinct_values_to_equal_set", {"column": "currency", "value_set": currencies}),
        (
            "expect_column_pair_values_a_to_be_greater_than_b",
            {"column_A": "shipped_at", "column_B": "created_at", "or_equal": True},
        ),
        ("expect_table_row_count_to_be_between", {"min_value": 1}),
    ]
    assert len(wanted) == 40
    return [get_expectation_impl(name)(**kwargs) for name, kwargs in wanted]


def rival(path: Path, *, from_frame: bool, **_: Any) -> dict[str, float]:
    """Validate as the documentation of Great Expectations says for pandas."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    checks = expectations()
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    frame = pd.read_parquet(path) if from_frame else None
    with Timer() as timer:
        frame = pd.read_parquet(path) if frame is None else frame
        batch = context.data_sources.add_pandas("p").add_dataframe_asset("t").add_batch_definition_whole_dataframe("b")
        suite = context.suites.add(gx.ExpectationSuite(name="s", expectations=checks))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name="v", data=batch, suite=suite))
        result = definition.run(batch_parameters={"dataframe": frame}, result_format="SUMMARY")
    assert result.success
    assert len(result.results) == 40
    return timer.figures


def ours(path: Path, *, from_frame: bool, with_docs: bool) -> dict[str, float]:
    """Validate with our engine."""
    import duckdb  # noqa: F401 - what is imported is not timed
    import pandas as pd

    from operators.core.storage import Storage
    from operators.validation.gx_context import Engine
    from operators.validation.policy import Suite
    from operators.validation.suites import described
    from operators.validation.validation import Checks, Validation

    made = expectations()
    checks = Checks("t", Suite(expectations=described(made)), tuple(made))
    frame = pd.read_parquet(path) if from_frame else None
    with tempfile.TemporaryDirectory() as folder:
        Engine()
        with Timer() as timer:
            engine = Engine()
            work = Validation(engine, Storage(f"file://{folder}"), "run")
            if not with_docs:
                work._finished = lambda _, examined, **__: examined  # type: ignore[method-assign]
            found = work.files(checks, str(path)) if frame is None else work.frame(checks, frame)
        work.stop()
    findings = found.report.findings if with_docs else found.findings  # type: ignore[attr-defined]
    assert len(findings) == 40
    assert all(finding.ok for finding in findings)
    return timer.figures


class Timer:
    """Wall clock, CPU and memory of a block."""

    def __enter__(self) -> Timer:
        self._before_mb = _rss_mb()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.figures = {
            "seconds": time.perf_counter() - self._began,
            "cpu_seconds": time.process_time() - self._cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "before_mb": self._before_mb,
        }


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


RUNS: dict[str, Any] = {
    "file/rival": lambda path: rival(path, from_frame=False),
    "file/ours": lambda path: ours(path, from_frame=False, with_docs=False),
    "file/operator": lambda path: ours(path, from_frame=False, with_docs=True),
    "frame/rival": lambda path: rival(path, from_frame=True),
    "frame/ours": lambda path: ours(path, from_frame=True, with_docs=False),
}


def main() -> None:
    """Run everything in turns and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("RUN", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(RUNS[options.one[0]](Path(options.one[1]))))
        return
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        write(path, options.rows)
        for _ in range(options.rounds):
            for name, found in taken.items():
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.validation", "--one", name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
                found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    shape = {"rows": options.rows, "columns": 20, "expectations": 40, "rounds": options.rounds, "cpus": os.cpu_count()}
    figures = {"median": _figures(taken, statistics.median), "least": _figures(taken, min)}
    print(json.dumps({**shape, "load": os.getloadavg(), **figures}, indent=1))


def _figures(taken: dict[str, list[dict[str, float]]], choose: Any) -> dict[str, Any]:
    """Return one figure of the rounds, and how many times faster ours is. The least is the least disturbed."""
    one = {name: {key: round(choose(run[key] for run in runs), 2) for key in runs[0]} for name, runs in taken.items()}
    pairs = (("file", "file/ours"), ("file, with Data Docs", "file/operator"), ("frame", "frame/ours"))
    faster = {
        name: round(one[f"{mine.split('/')[0]}/rival"]["seconds"] / one[mine]["seconds"], 1) for name, mine in pairs
    }
    return {"runs": one, "times_faster": faster}


if __name__ == "__main__":
    main()
