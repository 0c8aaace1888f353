"""Airflow's database: it is migrated and the pools are imported, if the installed Airflow or the pools have changed.

As a program this module does both in one process, because importing Airflow takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from operators.core.errors import ServiceError
from operators.core.settings import PROJECT_ROOT
from operators.stack.config import Stack
from operators.stack.secret import write_private

_QUERY_TIMEOUT_S = 3
POOLS = PROJECT_ROOT / "include" / "pools.json"
# Command → its job type in the metadata database, and its options. Logs are read from the shared disk. The log servers are
# off: they would listen on every interface.
AIRFLOW_COMPONENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "scheduler": ("SchedulerJob", ("--skip-serve-logs",)),
    "dag-processor": ("DagProcessorJob", ()),
    "triggerer": ("TriggererJob", ("--skip-serve-logs",)),
}


def is_migrated(stack: Stack) -> bool:
    """Say whether the database was last migrated by this release of Airflow and with these pools."""
    try:
        return _mark_path(stack).read_text() == _mark(stack)
    except FileNotFoundError:
        return False


def component_runs(stack: Stack, job_type: str) -> Callable[[], bool]:
    """Return a check whether this component has started since now. It asks the database, so the api-server may be down."""
    values = (job_type, datetime.now(UTC))
    query = "SELECT count(*) FROM job WHERE job_type = %s AND state = 'running' AND start_date >= %s"
    return lambda: bool(_ask(stack, query, values)[0])


def _ask(stack: Stack, query: str, values: tuple[object, ...] = ()) -> tuple[object, ...]:
    import psycopg

    try:
        url = stack.database_url("airflow")
        with psycopg.connect(url, connect_timeout=_QUERY_TIMEOUT_S, autocommit=True) as connection:
            return connection.execute(query, values).fetchone() or (None,)
    except psycopg.Error as error:
        raise ServiceError(f"Airflow's database: {str(error).strip()}") from None


def _mark_path(stack: Stack) -> Path:
    return stack.airflow_home / "migrated.json"


def _mark(stack: Stack) -> str:
    """Return where the database is, and what it was made with."""
    exists = _ask(stack, "SELECT to_regclass('alembic_version') IS NOT NULL")[0]
    pools = POOLS.read_bytes() if POOLS.exists() else b""
    return json.dumps(
        {
            "airflow": version("apache-airflow-core"),
            "server": stack.postgres_url.rsplit("@", 1)[-1],
            "revision": _ask(stack, "SELECT version_num FROM alembic_version")[0] if exists else None,
            "pools": hashlib.sha256(pools).hexdigest(),
        }
    )


def main() -> None:
    """Migrate and import, through Airflow's own commands."""
    from airflow.cli import cli_parser

    parser = cli_parser.get_parser()
    steps = [["db", "migrate"]]
    if POOLS.exists():
        steps.append(["pools", "import", str(POOLS)])
    for step in steps:
        arguments = parser.parse_args(step)
        arguments.func(arguments)
    stack = Stack.running()
    write_private(_mark_path(stack), _mark(stack))


if __name__ == "__main__":
    main()
