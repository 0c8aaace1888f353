"""One stack: its folders, ports, secrets, and which services are somebody else's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from operators.core.errors import ConfigurationError
from operators.core.settings import PROJECT_ROOT
from operators.stack import ports, secret

HOST = "127.0.0.1"
# Variable with the address of the user's own service → the service that is not started then.
EXTERNAL: Mapping[str, str] = {
    "TAXIWAY_POSTGRES_URL": "postgres",
    "TAXIWAY_STORAGE_URL": "s3",
    "TAXIWAY_RAY_URL": "ray",
    "MLFLOW_TRACKING_URI": "mlflow",
}
# Where the agent, the edge and Serve are on the user's own cluster. RAY_ADDRESS is needed to install the agent there.
ON_EXTERNAL_RAY = ("TAXIWAY_SERVE_URL", "TAXIWAY_EDGE_URL", "TAXIWAY_AGENT_URL", "TAXIWAY_AGENT_TOKEN", "RAY_ADDRESS")
# Set in every environment that we make: names those variables of EXTERNAL that mean our own services there.
MANAGED = "TAXIWAY_MANAGED"
DATABASES = ("airflow", "mlflow", "taxiway")
DATABASE_USER = "taxiway"
BUCKET = "taxiway"
AIRFLOW_USER = "admin"


@dataclass(frozen=True)
class Stack:
    """The settings of a stack. ``up`` writes them to ``run/stack.json``, so that later commands mean the same stack."""

    home: Path
    ports: Mapping[str, int]
    external: Mapping[str, str] = field(default_factory=dict, repr=False)
    serving: Mapping[str, str] = field(default_factory=dict, repr=False)
    ray_cpus: int = 4
    ray_object_store_bytes: int = 1 << 30

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Stack:
        """Read the environment.

        :raises ConfigurationError: a variable is malformed
        """
        env = os.environ if environ is None else environ
        managed = set(env.get(MANAGED, "").split(","))
        home = Path(env.get("TAXIWAY_HOME") or PROJECT_ROOT / "var").expanduser().resolve()
        return cls(
            home=home,
            ports=ports.read(env),
            external={
                service: env[variable]
                for variable, service in EXTERNAL.items()
                if env.get(variable) and variable not in managed
            },
            serving={
                variable: env[variable]
                for variable in ON_EXTERNAL_RAY
                if env.get(variable) and env.get("TAXIWAY_RAY_URL") and "TAXIWAY_RAY_URL" not in managed
            },
            ray_cpus=_count(env, "TAXIWAY_RAY_CPUS", max(4, os.cpu_count() or 1)),
            ray_object_store_bytes=_count(env, "TAXIWAY_RAY_OBJECT_STORE_BYTES", 1 << 30),
        )

    @classmethod
    def running(cls, environ: Mapping[str, str] | None = None) -> Stack:
        """Return the stack as it was last started, or as the environment describes it now if it never was."""
        now = cls.load(environ)
        try:
            kept = json.loads((now.run_dir / "stack.json").read_text())
            return cls(**{**kept, "home": now.home})
        except (FileNotFoundError, ValueError, TypeError):
            return now

    def remember(self) -> None:
        """Write what ``running`` reads. External addresses may hold passwords, so only the owner may read it."""
        secret.write_private(self.run_dir / "stack.json", json.dumps({**asdict(self), "home": str(self.home)}))

    def owns(self, service: str) -> bool:
        """Say whether we start this service, or the user has one."""
        return service not in self.external

    @cached_property
    def secrets(self) -> secret.Secrets:
        """The secrets, generated at first use."""
        return secret.load(self.home / "secrets.json")

    @property
    def run_dir(self) -> Path:
        """What holds only while the stack runs: its state and its processes."""
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        """One log for each service."""
        return self.home / "logs"

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder: its config, password file and task logs."""
        return self.home / "airflow"

    @property
    def ray_token_path(self) -> Path:
        """Ray reads its token from a file; so does every client."""
        return self.home / "ray-token"

    @property
    def short_dir(self) -> Path:
        """Folder of the Unix sockets: the path of a socket has at most 107 bytes, and ``home`` may be long."""
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"tw-{digest}"

    def make_folders(self) -> None:
        """Create the folders, before anything is started.

        :raises ConfigurationError: the folder in the shared temporary folder belongs to somebody else
        """
        for folder in (self.run_dir, self.log_dir, self.airflow_home, self.home / "edge"):
            folder.mkdir(parents=True, exist_ok=True)
        # Others may pass through the top (PostgreSQL may run as another user) but list nothing.
        self.short_dir.mkdir(mode=0o711, exist_ok=True)
        if self.short_dir.is_symlink() or self.short_dir.stat().st_uid != os.geteuid():
            raise ConfigurationError(
                f"{self.short_dir} belongs to another user; remove it, or set TMPDIR to another folder"
            )
        shutil.rmtree(self.tmp_dir, ignore_errors=True)
        for folder in (self.ray_dir, self.serve_dir, self.tmp_dir):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def ray_dir(self) -> Path:
        """Ray's sessions."""
        return self.short_dir / "r"

    @property
    def tmp_dir(self) -> Path:
        """Temporary files of Ray's and Airflow's processes. What killed ones leave is deleted when the stack starts again."""
        return self.short_dir / "t"

    @property
    def serve_dir(self) -> Path:
        """Sockets and generated config of Ray Serve's HAProxy."""
        return self.short_dir / "s"

    def url(self, port: str, scheme: str = "http") -> str:
        """Return the address of a port of ours."""
        return f"{scheme}://{HOST}:{self.ports[port]}"

    @property
    def postgres_url(self) -> str:
        """Server part of the PostgreSQL URL, ``postgresql://user:password@host:port``."""
        if url := self.external.get("postgres"):
            return url.rstrip("/")
        return f"postgresql://{DATABASE_USER}:{self.secrets.postgres_password}@{HOST}:{self.ports['postgres']}"

    def database_url(self, database: str, driver: str = "") -> str:
        """Return the URL of one of the databases, for SQLAlchemy where a driver is named."""
        base, question, options = self.postgres_url.partition("?")
        rest = base.rstrip("/").split("://", 1)[1]
        return f"postgresql{'+' + driver if driver else ''}://{rest}/{database}{question}{options}"

    @property
    def storage_url(self) -> str:
        """Root of object storage."""
        return self.external.get("s3", f"s3://{BUCKET}").rstrip("/")

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow tracking server."""
        return self.external.get("mlflow", self.url("mlflow"))

    @property
    def ray_url(self) -> str:
        """Address of the Ray dashboard and its job API."""
        return self.external.get("ray", self.url("ray_dashboard"))

    @property
    def airflow_url(self) -> str:
        """Address of the Airflow UI and API."""
        return self.url("airflow")


def _count(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "") or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"{variable} is {text!r}; it must be a whole number above 0")
    return int(text)
