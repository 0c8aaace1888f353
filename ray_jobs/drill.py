"""What a drill does on the cluster: register nothing, but log a model that fails; kill the agent, or a version's replicas.

Run as ``python -m ray_jobs.drill <key>``. What is killed is found through Ray, and killed by a task of Ray on its node, with
SIGKILL, so that nothing of it has a last word. ``<key>/fault.json`` says when the first process was killed.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from operators.core.errors import ConfigurationError, RejectedError
from operators.core.settings import setting, storage_url
from operators.core.storage import Storage
from ray_jobs.agent.actors import NAME, NAMESPACE
from ray_jobs.job_frame import run

_FAULTY = Path(__file__).with_name("drill_model.py")
_COPY = "_drill-"  # how every copy's applications are called; no other is touched
_LOOK_S = 0.5
_MOST_ACTORS = 10_000


def work(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Do the part of a drill that needs the cluster: log a faulty model, or kill actors.

    :param given: ``do``: `log_faulty` (with ``champion``, an address of MLflow, and ``experiment``), `kill_agent`, or
        `kill_replicas` (with ``app`` and ``for_s``: again and again until the application is gone, or so long)
    :raises ConfigurationError: it asks for something else
    """
    if given["do"] == "log_faulty":
        return _log_faulty(given["champion"], given["experiment"])
    kinds: dict[str, Callable[[], Mapping[str, Any]]] = {
        "kill_agent": lambda: _kill(_agents, key, for_s=0.0),
        "kill_replicas": lambda: _kill(lambda: _replicas(given["app"]), key, for_s=float(given["for_s"])),
    }
    if given["do"] not in kinds:
        raise ConfigurationError(f"a drill cannot do {given['do']!r}; it can do: log_faulty, {', '.join(kinds)}")
    return kinds[given["do"]]()


def _log_faulty(champion: str, experiment: str) -> Mapping[str, Any]:
    """Log a model that takes what the champion takes, and raises."""
    import mlflow.models

    mlflow.set_tracking_uri(setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"))
    signature = mlflow.models.get_model_info(champion).signature
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name="bad-canary"):
        # Without an input example: a version that cannot answer its own does not start.
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_FAULTY),
            signature=signature,
            pip_requirements=[f"mlflow=={mlflow.__version__}"],
        )
    return {"model_uri": info.model_uri}


def _kill(find: Callable[[], Iterable[tuple[str, int]]], key: str, *, for_s: float) -> Mapping[str, Any]:
    """Kill what is found: once, or whenever there is something again.

    :param find: returns node and process id of each
    :param for_s: seconds; 0: once
    :raises RejectedError: there was nothing to kill
    """
    import ray

    ray.init(namespace=NAMESPACE, log_to_driver=False)
    killed: list[int] = []
    end = time.monotonic() + for_s
    while True:
        for node, pid in find():
            at = _kill_on(node, pid)
            if at is None:
                continue
            if not killed:
                said = json.dumps({"at": at, "pid": pid, "node": node}).encode()
                Storage(storage_url()).put_bytes(f"{key}/fault.json", said)
            killed.append(pid)
        if time.monotonic() >= end:
            break
        time.sleep(_LOOK_S)
    if not killed:
        raise RejectedError("Ray has no such process: there was nothing to kill")
    return {"killed": killed}


def _kill_on(node: str, pid: int) -> float | None:
    """Kill a process on a node; return when (unix seconds), or None if it had gone already."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_node = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    kill = ray.remote(_sigkill).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node)
    at: float | None = ray.get(kill.remote(pid), timeout=30)
    return at


def _sigkill(pid: int) -> float | None:
    at = time.time()
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return at


def _agents() -> list[tuple[str, int]]:
    return [(a.node_id, a.pid) for a in _actors() if a.name == NAME and a.ray_namespace == NAMESPACE]


def _replicas(app: str) -> list[tuple[str, int]]:
    """Return the replicas of one version of a copy."""
    if _COPY not in app:
        raise ConfigurationError(f"{app!r} is no application of a copy; a drill kills no other's replicas")
    return [(a.node_id, a.pid) for a in _actors() if a.class_name.startswith(f"ServeReplica:{app}:")]


def _actors() -> list[Any]:
    from ray.util.state import list_actors

    found = list_actors(
        filters=[("state", "=", "ALIVE")], detail=True, limit=_MOST_ACTORS, raise_on_missing_output=False
    )
    return [actor for actor in found if actor.pid and actor.node_id]


if __name__ == "__main__":
    run(work)
