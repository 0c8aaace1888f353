"""Real traffic: from a file of requests, read with DuckDB, or from the recorded verdict of a real release."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operators.core.errors import ConfigurationError
from operators.core.spec_judge import Slow
from operators.judge.evidence import Evidence
from operators.planning.simulation.requests import Recording, Requests
from operators.planning.simulation.traffic_model import TrafficModel

_COLUMNS = "t (seconds or a timestamp), and if known: unit, failed or status, slow or latency_ms"


def read_recording(path: Path, slow: Slow | None) -> Recording:
    """Read requests from a CSV or Parquet file.

    Columns: ``t``, seconds or a timestamp; ``unit``, the caller; ``failed``, or ``status``, where 500 and above is a failure;
    ``slow``, or ``latency_ms``, which is compared with the limit of the spec's guard.

    :param slow: the spec's guard; None: nothing is slow
    :raises ConfigurationError: the file cannot be read, has no column ``t``, or has too few requests
    """
    import duckdb
    import numpy as np

    from operators.core.duck import open_duckdb, text_sql

    file = path.resolve()
    if not file.is_file():
        raise ConfigurationError(f"--traffic {path}: no such file; a CSV or Parquet file with {_COLUMNS}")
    reader = f"{'read_parquet' if file.suffix == '.parquet' else 'read_csv'}({text_sql(file)})"
    with tempfile.TemporaryDirectory(prefix="taxiway-traffic-") as folder, open_duckdb(Path(folder), file.parent) as db:
        try:
            types = {row[0]: row[1] for row in db.execute(f"DESCRIBE FROM {reader}").fetchall()}
            if "t" not in types:
                raise ConfigurationError(
                    f"--traffic {path}: there is no column t, only {', '.join(types)}; needed: {_COLUMNS}"
                )
            query = f"SELECT {', '.join(_expressions(types))} FROM {reader} WHERE t IS NOT NULL ORDER BY t"  # noqa: S608
            arrays = db.execute(query).fetchnumpy()
        except duckdb.Error as error:
            raise ConfigurationError(f"--traffic {path}: {str(error).splitlines()[0]}") from None
    columns = {name: np.ma.filled(values, 0) for name, values in arrays.items()}
    at_s = columns["at_s"].astype(float)
    if len(at_s) < 2 or at_s[-1] <= at_s[0]:
        raise ConfigurationError(
            f"--traffic {path}: {len(at_s)} requests are too few; at least some seconds of traffic are needed"
        )
    at_s = at_s - at_s[0]
    is_slow = (
        columns["slow"].astype(bool) if "slow" in columns else _over_limit(columns.get("latency_ms"), len(at_s), slow)
    )
    requests = Requests(at_s, columns["unit"].astype(np.int64), columns["failed"].astype(bool), is_slow)
    # After the last request comes a gap of average length; without it the last and the first would have the same time.
    return Recording(requests, float(at_s[-1]) * len(at_s) / (len(at_s) - 1), int(requests.unit.max()) + 1)


def _expressions(types: Mapping[str, str]) -> list[str]:
    timed = types["t"].startswith(("TIMESTAMP", "DATE"))
    wanted = ["epoch_us(t::TIMESTAMP) / 1e6 AS at_s" if timed else "t::DOUBLE AS at_s"]
    wanted.append(
        ("dense_rank() OVER (ORDER BY unit)" if "unit" in types else "row_number() OVER (ORDER BY t)") + " - 1 AS unit"
    )
    if "failed" in types:
        wanted.append("coalesce(failed::BOOLEAN, false) AS failed")
    else:
        wanted.append(("coalesce(status::INTEGER >= 500, true)" if "status" in types else "false") + " AS failed")
    if "slow" in types:
        wanted.append("coalesce(slow::BOOLEAN, false) AS slow")
    elif "latency_ms" in types:
        wanted.append("coalesce(latency_ms::DOUBLE, 'Infinity'::DOUBLE) AS latency_ms")
    return wanted


def _over_limit(latency_ms: Any, count: int, slow: Slow | None) -> Any:
    """Return which requests the guard ``slow`` would count: those over its limit, or far over a quantile of all."""
    import numpy as np

    if latency_ms is None or slow is None:
        return np.zeros(count, dtype=bool)
    if slow.limit_s is not None:
        return latency_ms > 1000 * slow.limit_s
    quantile_ms = float(np.quantile(latency_ms, slow.quantile, method="higher"))
    return latency_ms > max(quantile_ms * slow.ratio, quantile_ms + 1000 * slow.increase_s)


def load_like(verdict: Mapping[str, Any], *, holdout_share: float = 0.0) -> TrafficModel:
    """Return the traffic of a real release in the step of one verdict.

    The evidence has units only, so each unit counts as one request.

    :param verdict: payload of a ``verdict`` in the ledger: ``evidence``, ``elapsed_s``, ``step``
    :param holdout_share: share of the units in the holdout, which are not in the evidence
    :raises ConfigurationError: there are no requests in its evidence
    """
    evidence = Evidence.model_validate(verdict["evidence"])
    elapsed_s = float(verdict["elapsed_s"])
    newest = evidence.periods[-1] if evidence.periods else None
    if newest is None or not newest.stable.requests or elapsed_s <= 0:
        raise ConfigurationError(
            "this verdict has no requests of stable in its evidence; take a verdict of a step that had traffic"
        )
    # Units of which a shadow got copies are counted for stable, too.
    units = newest.stable.requests + (0 if verdict.get("step") == "shadow" else newest.canary.requests)
    stable = newest.stable.requests
    return TrafficModel(
        rate_per_s=units / elapsed_s / (1 - holdout_share),
        error_rate=min((newest.stable.failed or 0) / stable, 0.999),
        slow_rate=min((newest.stable.slow or 0) / stable, 0.999),
    )
