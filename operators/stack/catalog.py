"""The services of a stack: how each is started, and how one knows that it is ready."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from operators.stack import environment, probes, ray_head
from operators.stack.airflow_setup import AIRFLOW_COMPONENTS, component_runs, is_migrated
from operators.stack.config import BUCKET, HOST, Stack
from operators.stack.postgres import service as postgres
from operators.stack.secret import write_private
from operators.stack.service import Service


def of(stack: Stack) -> dict[str, Service]:
    """Return the services by name, in the order in which `status` lists them."""
    env = environment.base(stack)
    services = [
        postgres(stack),
        _storage(stack, env),
        _ray(stack, env),
        _agent(stack, env),
        _mlflow(stack, env),
        *_airflow(stack, env),
    ]
    return {service.name: service for service in services}


def _python(*arguments: str) -> tuple[str, ...]:
    """Return a command for our own interpreter. Installed scripts do not start from a path with spaces."""
    return (sys.executable, *arguments)


def _storage(stack: Stack, env: Mapping[str, str]) -> Service:
    if not stack.owns("s3"):
        return Service(name="s3", address=stack.storage_url)
    port, data = stack.ports, stack.home / "s3"
    secrets, endpoint = stack.secrets, stack.url("s3")

    def prepare() -> None:
        data.mkdir(parents=True, exist_ok=True)

    return Service(
        name="s3",
        command=(
            str(Path(sys.executable).with_name("weed")), "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}",
            "-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-bucket={BUCKET}",
            "-s3.autoCreateBucket=false", "-s3.port.iceberg=0",
            "-s3.port.lance=0",  # its default is Ray Serve's 9101, and a taken port ends the whole server
            f"-s3.port={port['s3']}", f"-master.port={port['weed_master']}", f"-volume.port={port['weed_volume']}",
            f"-filer.port={port['weed_filer']}", f"-admin.port={port['weed_admin']}",
        ),
        # Go keeps less memory: 150 MB when idle, instead of 560.
        env={**env, "GOMEMLIMIT": "300MiB", "GOGC": "50"},
        prepare=prepare,
        ready=lambda: probes.bucket_exists(endpoint, BUCKET, secrets.s3_access_key, secrets.s3_secret_key),
        timeout_s=60.0,
        address=endpoint,
    )  # fmt: skip


def _ray(stack: Stack, env: Mapping[str, str]) -> Service:
    if not stack.owns("ray"):
        return Service(name="ray", ready=lambda: probes.connects(stack.ray_url), address=stack.ray_url)
    header = {"Authorization": f"Bearer {stack.secrets.ray_token}"}

    def prepare() -> None:
        write_private(stack.ray_token_path, stack.secrets.ray_token)
        for old in stack.ray_dir.glob("session_*"):
            if old.is_symlink():
                old.unlink()
            else:
                shutil.rmtree(old, ignore_errors=True)
        ray_head.write_haproxy_wrapper(stack.serve_dir / "haproxy")

    def ready() -> bool:
        # The job API answers seconds before the node has joined. On a busy machine the node may fail to join.
        nodes = probes.get_json(f"{stack.ray_url}/api/v0/nodes", header) or {"data": {"result": {"result": []}}}
        return any(node["state"] == "ALIVE" for node in nodes["data"]["result"]["result"]) and bool(
            probes.get(f"{stack.ray_url}/api/jobs/", header)[0] == 200
        )

    return Service(
        name="ray",
        command=_python("-m", *ray_head.command(stack)),
        env={**env, **environment.ray_head(stack)},
        prepare=prepare,
        ready=ready,
        address=stack.ray_url,
        grace_s=6.0,
        # Ray gives its own node 30 s to join. On a busy machine that is not always enough.
        start_retries=1,
    )


def _agent(stack: Stack, env: Mapping[str, str]) -> Service:
    if stack.owns("ray"):
        extra = environment.ray_head(stack) | {"RAY_ADDRESS": f"{HOST}:{stack.ports['ray_gcs']}"}
    else:
        extra = {name: value for name, value in stack.serving.items() if name == "RAY_ADDRESS"}
    return Service(
        name="serving",
        command=_python("-m", "ray_jobs.agent"),
        env={**env, **extra},
        needs=("ray",),
        step=True,
        # Without the address the agent would connect to any Ray on this machine.
        skip=lambda: "RAY_ADDRESS" not in extra or find_spec("ray_jobs.agent") is None,
        address=env["TAXIWAY_EDGE_URL"],
    )


def _mlflow(stack: Stack, env: Mapping[str, str]) -> Service:
    if not stack.owns("mlflow"):
        return Service(name="mlflow", ready=lambda: probes.connects(stack.mlflow_url), address=stack.mlflow_url)
    server = {
        "MLFLOW_BACKEND_STORE_URI": stack.database_url("mlflow", "psycopg2"),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"{stack.storage_url}/mlflow",
        # The job queue for LLM judges would be five more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return Service(
        name="mlflow",
        command=_python(
            "-m", "mlflow", "server", f"--host={HOST}", f"--port={stack.ports['mlflow']}", "--workers=1",
            "--no-serve-artifacts",
        ),
        env={**{k: v for k, v in env.items() if k != "MLFLOW_TRACKING_URI"}, **server},
        needs=("postgres",),
        ready=lambda: probes.get(f"{stack.mlflow_url}/health")[0] == 200,
        restarts=3,
        address=stack.mlflow_url,
    )  # fmt: skip


def _airflow(stack: Stack, env: Mapping[str, str]) -> list[Service]:
    env = {**env, **environment.airflow(stack)}

    def prepare() -> None:
        write_private(stack.airflow_home / "passwords.json", environment.airflow_passwords(stack))

    setup = Service(
        name="airflow-db",
        command=_python("-m", "operators.stack.airflow_setup"),
        env=env,
        needs=("postgres",),
        prepare=prepare,
        step=True,
        skip=lambda: is_migrated(stack),
    )
    components = [
        Service(
            name=f"airflow-{name}",
            command=_python("-m", "airflow", name, *arguments),
            env=env,
            needs=("airflow-db",),
            ready=component_runs(stack, job),
            restarts=3,
        )
        for name, (job, arguments) in AIRFLOW_COMPONENTS.items()
    ]
    server = Service(
        name="airflow-api-server",
        command=_python("-m", "airflow", "api-server"),
        env=env,
        needs=("airflow-db",),
        ready=lambda: probes.get(f"{stack.airflow_url}/api/v2/version")[0] == 200,
        restarts=3,
        address=stack.airflow_url,
    )
    return [setup, *components, server]
