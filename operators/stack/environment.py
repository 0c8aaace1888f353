"""The environment of every process of the stack. The user's own settings of Ray, Airflow and MLflow are kept out of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operators.core.settings import PROJECT_ROOT
from operators.stack.config import AIRFLOW_USER, EXTERNAL, MANAGED, Stack

# Every process of a stack carries it and no other process does, so that `down` ends only what belongs to the stack. It is
# never exported to a user's shell: what the user starts there would be ended, too.
MARKER = "TAXIWAY_STACK_ID"

_DROPPED_PREFIXES = ("AIRFLOW__", "RAY_", "MLFLOW_", "TAXIWAY_PORT_", "PG", "WEED_")
_DROPPED = {
    "AIRFLOW_HOME",
    "AIRFLOW_CONFIG",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "S3_BUCKET",
    MARKER,
}


def inherited(stack: Stack, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the processes inherit of the user's environment.

    ``AIRFLOW_CONN_*`` and ``AIRFLOW_VAR_*`` pass: they are a project's own connections and variables. Ray's and AWS's
    variables pass only where the service is the user's.
    """
    dropped = tuple(prefix for prefix in _DROPPED_PREFIXES if stack.owns("ray") or prefix != "RAY_")
    if stack.owns("s3"):
        dropped += ("AWS_",)
    kept = {k: v for k, v in environ.items() if k not in _DROPPED and not k.startswith(dropped)}
    if not stack.owns("mlflow"):
        kept.update({k: v for k, v in environ.items() if k.startswith("MLFLOW_TRACKING_")})
    # It redirects Ray's clients without a word. The one step that needs it gets it in `catalog`.
    kept.pop("RAY_ADDRESS", None)
    return kept


def services(stack: Stack) -> dict[str, str]:
    """Return where the services are and how to reach them: what ``taxiway env`` prints."""
    env = {
        "TAXIWAY_HOME": str(stack.home),
        "TAXIWAY_LEDGER_URL": stack.database_url("taxiway", "psycopg"),
        "TAXIWAY_STORAGE_URL": stack.storage_url,
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
        "TAXIWAY_RAY_URL": stack.ray_url,
        "TAXIWAY_SERVE_URL": stack.url("serve"),
        "TAXIWAY_EDGE_URL": stack.url("edge"),
        "TAXIWAY_AGENT_URL": stack.url("agent"),
        "TAXIWAY_AGENT_TOKEN": stack.secrets.agent_token,
        "TAXIWAY_EDGE_STATE_DIR": str(stack.home / "edge"),
        "TAXIWAY_AIRFLOW_URL": stack.airflow_url,
        MANAGED: ",".join(variable for variable, service in EXTERNAL.items() if stack.owns(service)),
    }
    env |= {name: value for name, value in stack.serving.items() if name != "RAY_ADDRESS"}
    if stack.owns("s3"):
        env |= {
            "AWS_ENDPOINT_URL": stack.url("s3"),
            "MLFLOW_S3_ENDPOINT_URL": stack.url("s3"),
            # The filer shows a browser what is in the bucket; on this machine only, and without a login.
            "TAXIWAY_DOCS_URL": f"http://127.0.0.1:{stack.ports['weed_filer']}/buckets/{stack.storage_url[len('s3://') :]}",
            "AWS_ACCESS_KEY_ID": stack.secrets.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": stack.secrets.s3_secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Otherwise boto3, where it has no credentials, asks the cloud's metadata address and waits.
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    if stack.owns("ray"):
        env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(stack.ray_token_path),
            # Otherwise Ray replaces 127.0.0.1 by the address of the network card and listens on every interface.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    return env


def base(stack: Stack, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that every process of the stack starts from."""
    user = os.environ if environ is None else environ
    env = inherited(stack, user) | services(stack)
    env[MARKER] = stack.secrets.stack_id
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), user.get("PATH", os.defpath)])
    env["PYTHONPATH"] = str(PROJECT_ROOT)
    env["PYTHONUNBUFFERED"] = "1"
    # setproctitle would write over the environment that /proc shows, and with it over the marker.
    env["SPT_NOENV"] = "1"
    # Two arenas instead of eight per core: threaded Python servers take a fifth less memory.
    env["MALLOC_ARENA_MAX"] = "2"
    env["DO_NOT_TRACK"] = "true"
    env["MLFLOW_DISABLE_TELEMETRY"] = "true"
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    for variable in ("NO_PROXY", "no_proxy"):
        env[variable] = ",".join(filter(None, [user.get(variable, ""), "127.0.0.1", "localhost"]))
    return env


def airflow(stack: Stack) -> dict[str, str]:
    """Return Airflow's settings: PostgreSQL, LocalExecutor, loopback, and polling that suits a demo on two cores."""
    secrets = stack.secrets
    sections: dict[str, dict[str, str | int | float]] = {
        "CORE": {
            "EXECUTOR": "LocalExecutor",
            "DAGS_FOLDER": str(PROJECT_ROOT / "dags"),
            "PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
            "LOAD_EXAMPLES": "False",
            "PARALLELISM": 8,
            "FERNET_KEY": secrets.airflow_fernet_key,
            "AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "SIMPLE_AUTH_MANAGER_USERS": f"{AIRFLOW_USER}:admin",
            "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(stack.airflow_home / "passwords.json"),
            "EXECUTION_API_SERVER_URL": f"{stack.airflow_url}/execution/",
            "MIN_SERIALIZED_DAG_UPDATE_INTERVAL": 5,
        },
        "DATABASE": {
            "SQL_ALCHEMY_CONN": stack.database_url("airflow", "psycopg2"),
            "SQL_ALCHEMY_CONN_ASYNC": stack.database_url("airflow", "asyncpg"),
            "CHECK_MIGRATIONS": "False",  # `airflow_setup` has migrated it; otherwise every component would check again
        },
        "API": {
            "HOST": "127.0.0.1",
            "PORT": stack.ports["airflow"],
            "BASE_URL": stack.airflow_url,
            "WORKERS": 1,
            "WORKER_TIMEOUT": 10,  # also how long a stopping server waits for open connections
            "SECRET_KEY": secrets.airflow_api_secret,
        },
        "API_AUTH": {"JWT_SECRET": secrets.airflow_jwt_secret, "JWT_ISSUER": "taxiway"},
        "SCHEDULER": {
            "SCHEDULER_HEARTBEAT_SEC": 1,
            "SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            "ORPHANED_TASKS_CHECK_INTERVAL": 30,
            "TRIGGER_TIMEOUT_CHECK_INTERVAL": 5,
        },
        "DAG_PROCESSOR": {
            "REFRESH_INTERVAL": 10,
            "BUNDLE_REFRESH_CHECK_INTERVAL": 2,
            "MIN_FILE_PROCESS_INTERVAL": 15,
            "PARSING_PROCESSES": 1,
            "DAG_BUNDLE_CONFIG_LIST": json.dumps(_bundles()),
            "DAG_BUNDLE_STORAGE_PATH": str(stack.airflow_home / "bundles"),
            "PRINT_STATS_INTERVAL": 0,
        },
        # After this time another triggerer takes over the waits of one that died.
        "TRIGGERER": {"JOB_HEARTBEAT_SEC": 2, "TRIGGERER_HEALTH_CHECK_THRESHOLD": 10},
        "OPERATORS": {"DEFAULT_DEFERRABLE": "True"},
        "LOGGING": {"BASE_LOG_FOLDER": str(stack.airflow_home / "logs"), "COLORED_CONSOLE_LOG": "False"},
    }
    env = {f"AIRFLOW__{s}__{k}": str(v) for s, options in sections.items() for k, v in options.items()}
    env["AIRFLOW_HOME"] = str(stack.airflow_home)
    env["TMPDIR"] = str(stack.tmp_dir)
    env["OMP_NUM_THREADS"] = env["OPENBLAS_NUM_THREADS"] = "1"
    return env


def _bundles() -> list[dict[str, Any]]:
    """Return where DAGs come from: ``dags/``, and the user's own folder."""
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    folders = {"dags-folder": None, "own": os.environ.get("TAXIWAY_DAGS")}
    return [
        {"name": name, "classpath": local, "kwargs": {"path": str(Path(folder).resolve())} if folder else {}}
        for name, folder in folders.items()
        if folder or name == "dags-folder"
    ]


def airflow_passwords(stack: Stack) -> str:
    """Return the content of SimpleAuthManager's password file: one user with a generated password."""
    return json.dumps({AIRFLOW_USER: stack.secrets.airflow_password}) + "\n"


def ray_head(stack: Stack) -> dict[str, str]:
    """Return what only the Ray head and its workers get: how Ray Serve's data plane is built."""
    return {
        "TMPDIR": str(stack.tmp_dir),
        "RAY_START_HOOK": "operators.stack.ray_head.configure",
        # On `down` everything stops, so there is nothing to drain for.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # Ray gives its workers niceness 15: on a busy machine every other process would go before the replicas.
        "RAY_worker_niceness": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        # A replica's HTTP server hands requests for predictions straight to the model; see `ray_jobs.serve.fast_path`.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ray_jobs.serve.fast_path:middlewares",
        # The edge counts requests itself. These metrics would cost the parsing of a datagram per request in Python.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(stack.serve_dir / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(stack.serve_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(stack.serve_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(stack.serve_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(stack.serve_dir / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(stack.serve_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(stack.ports["serve_metrics"]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stack.ports["serve_stats"]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(stack.ports["serve_fallback_http"]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(stack.ports["serve_fallback_grpc"]),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        **_range("HTTP", stack.ports["serve_replica_http"]),
        **_range("GRPC", stack.ports["serve_replica_grpc"]),
        "DASHBOARD_METRIC_PORT": str(stack.ports["ray_dashboard_metrics"]),
    }


def _range(protocol: str, first: int) -> dict[str, str]:
    prefix = "RAY_SERVE_DIRECT_INGRESS"
    return {f"{prefix}_MIN_{protocol}_PORT": str(first), f"{prefix}_MAX_{protocol}_PORT": str(first + 499)}
