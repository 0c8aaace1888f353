"""Every port that the stack listens on, in one table, so that two stacks on one machine can be kept apart."""

from __future__ import annotations

from collections.abc import Mapping

from operators.core.errors import ConfigurationError

# Where people know a port, it is the default. All are below 32768, because the kernel hands out the ports above by itself.
DEFAULTS: Mapping[str, int] = {
    "airflow": 8080,
    "mlflow": 5000,
    "postgres": 15432,
    "s3": 8333,
    "weed_master": 9333,
    "weed_volume": 9340,
    "weed_filer": 8888,
    "weed_admin": 9323,  # listens even with -admin.ui=false
    "ray_dashboard": 8265,
    "ray_gcs": 6379,
    "ray_node_manager": 6380,
    "ray_object_manager": 6381,
    "ray_agent": 8267,
    "ray_agent_grpc": 8268,
    "ray_runtime_env": 8269,
    "ray_metrics": 8270,
    "ray_dashboard_metrics": 8271,
    "serve": 8000,
    "serve_fallback_http": 8202,
    "serve_fallback_grpc": 8203,
    "serve_stats": 8404,
    "serve_metrics": 9101,
    "serve_replica_http": 30000,
    "serve_replica_grpc": 31000,
    "edge": 8200,
    "agent": 8201,
}

# SeaweedFS opens a gRPC port 10,000 above each of these.
TWINS = ("s3", "weed_master", "weed_volume", "weed_filer", "weed_admin")
TWIN_DISTANCE = 10_000
# Serve gives replicas the ports of a range that starts here.
RANGES = ("serve_replica_http", "serve_replica_grpc")
RANGE_LENGTH = 500

OF_SERVICE: Mapping[str, tuple[str, ...]] = {
    "postgres": ("postgres",),
    "s3": TWINS,
    "mlflow": ("mlflow",),
    "ray": (*(name for name in DEFAULTS if name.startswith(("ray_", "serve"))), "edge", "agent"),
    "airflow": ("airflow",),
}


def read(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the port of each name: the default or ``TAXIWAY_PORT_<NAME>``, plus ``TAXIWAY_PORT_OFFSET``.

    :raises ConfigurationError: a value is no port, or two names would share one
    """
    offset = _integer(environ, "TAXIWAY_PORT_OFFSET", 0)
    ports = {
        name: _integer(environ, f"TAXIWAY_PORT_{name.upper()}", default) + offset for name, default in DEFAULTS.items()
    }
    taken: dict[int, str] = {}
    for name in ports:
        for port in opened(name, ports):
            if not 1024 <= port <= 65535:
                raise ConfigurationError(
                    f"port {port} of {name} is not in 1024-65535; set TAXIWAY_PORT_{name.upper()}, or a lower TAXIWAY_PORT_OFFSET"
                )
            if port in taken:
                raise ConfigurationError(
                    f"{name} and {taken[port]} would both use port {port}; set TAXIWAY_PORT_{name.upper()} to another one"
                )
            taken[port] = name
    return ports


def opened(name: str, ports: Mapping[str, int]) -> tuple[int, ...]:
    """Return every port that belongs to a name: twins and ranges included."""
    first = ports[name]
    if name in RANGES:
        return tuple(range(first, first + RANGE_LENGTH))
    return (first, first + TWIN_DISTANCE) if name in TWINS else (first,)


def _integer(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"{variable} is {text!r}; it must be a whole number") from None
