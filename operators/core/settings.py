"""The addresses of the services, from the environment. `taxiway up` sets the variables for every process that it starts.

Set a service's variable yourself to use your own service in its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from operators.core.errors import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
# After this time without an answer of a service, a task stops waiting for it.
LONGEST_SILENCE_S = 60.0


def setting(name: str, meaning: str) -> str:
    """Return one required environment variable.

    :param meaning: what the variable holds, for the message
    :raises ConfigurationError: it is not set
    """
    value = os.environ.get(name, "")
    if not value:
        raise ConfigurationError(
            f"{name} is not set ({meaning}). `taxiway up` sets it for the services it starts; "
            f"elsewhere, export it yourself, or run `eval $(taxiway env)`."
        )
    return value


@dataclass(frozen=True)
class Settings:
    """The addresses of the services, and the secrets to reach them. ``repr`` hides the secrets."""

    ledger_url: str
    storage_url: str
    mlflow_url: str
    ray_url: str
    serve_url: str
    edge_url: str
    agent_url: str
    agent_token: str

    def __repr__(self) -> str:
        hidden = {"ledger_url", "agent_token"}
        shown = ", ".join(f"{f.name}={'…' if f.name in hidden else getattr(self, f.name)}" for f in fields(self))
        return f"Settings({shown})"

    @classmethod
    def load(cls) -> Settings:
        """Read every setting from the environment.

        :raises ConfigurationError: one of them is missing
        """
        return cls(
            ledger_url=setting("TAXIWAY_LEDGER_URL", "SQLAlchemy URL of the ledger's PostgreSQL database"),
            storage_url=storage_url(),
            mlflow_url=setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"),
            ray_url=setting("TAXIWAY_RAY_URL", "address of the Ray dashboard and its job API"),
            serve_url=setting("TAXIWAY_SERVE_URL", "address of Ray Serve's own proxy"),
            edge_url=setting("TAXIWAY_EDGE_URL", "address of the edge that callers use"),
            agent_url=setting("TAXIWAY_AGENT_URL", "address of the agent's admin API"),
            agent_token=setting("TAXIWAY_AGENT_TOKEN", "token of the agent's admin API"),
        )


def storage_url() -> str:
    """Return the root of object storage, ``s3://bucket[/prefix]`` or ``file:///path``, without a trailing slash."""
    return setting("TAXIWAY_STORAGE_URL", "root of object storage, s3://bucket or file:///path").rstrip("/")
