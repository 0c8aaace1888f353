"""The faults of a drill that need the cluster: log a model that fails, kill the agent, or kill a version's replicas.

Run as ``python -m ray_jobs.drill <key>``. A Ray task on the node kills a process with SIGKILL, so that it cannot clean up.
``<key>/fault.json`` says when the first process was killed.
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
_COPY = "_drill-"  # part of the name of every copy's applications; a drill touches no other application
_LOOK_S = 0.5
_MOST_ACTORS = 10_000


def work(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Log a faulty model, or kill processes.

    :param given: ``do`` is `log_faulty` (with ``champion``, the champion's address in MLflow, and ``experiment``), `kill_agent`
        or `kill_replicas` (with ``app``, whose replicas are killed again and again for ``for_s`` seconds)
    :raises ConfigurationError: ``do`` is something else
    """
    if given["do"] == "log_faulty":
        return _log_faulty(given["champion"], given["experiment"])
    kinds: dict[str, Callable[[], Mapping[str, Any]]] = {
        "kill_agent": lambda: _kill(_agents, key, for_s=0.0),
        "kill_replicas": lambda: _kill(lambda: _replicas(given["app"]), key, for_s=float(given["for_s"])),
    }
    if given["do"] not in kinds:
        raise ConfigurationError(
            f"a drill cannot do {given['do']!r}; `do` must be one of log_faulty, {', '.join(kinds)}"
        )
    return kinds[given["do"]]()


def _log_faulty(champion: str, experiment: str) -> Mapping[str, Any]:
    """Log a model with the champion's signature that fails every request."""
    import mlflow.models

    mlflow.set_tracking_uri(setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"))
    signature = mlflow.models.get_model_info(champion).signature
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name="bad-canary"):
        # No input example: a version that cannot answer its own example does not start.
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_FAULTY),
            signature=signature,
            pip_requirements=[f"mlflow=={mlflow.__version__}"],
        )
    return {"model_uri": info.model_uri}


def _kill(find: Callable[[], Iterable[tuple[str, int]]], key: str, *, for_s: float) -> Mapping[str, Any]:
    """Kill processes, and kill them again whenever they come back.

    :param find: returns node and process id of each process
    :param for_s: for how many seconds; 0: once
    :raises RejectedError: there was no process to kill
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
<<<<<<< HEAD
                fault = json.dumps({"at": at, "pid": pid, "node": node}).encode()
                Storage.from_url(storage_url()).put_bytes(f"{key}/fault.json", fault)
=======
                said = json.dumps({"at": at, "pid": pid, "node": node}).encode()
                Storage(storage_url()).put_bytes(f"{key}/fault.json", said)
>>>>>>> c2
            killed.append(pid)
        if time.monotonic() >= end:
            break
        time.sleep(_LOOK_S)
    if not killed:
        raise RejectedError(
            "Ray knows no such process, so nothing was killed; check that the agent or the version runs"
        )
    return {"killed": killed}


def _kill_on(node: str, pid: int) -> float | None:
    """Kill a process on a node. Return the Unix time in seconds, or None if the process had ended already."""
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
        raise ConfigurationError(f"{app!r} is not an application of a copy; a drill kills only the replicas of copies")
    return [(a.node_id, a.pid) for a in _actors() if a.class_name.startswith(f"ServeReplica:{app}:")]


def _actors() -> list[Any]:
    from ray.util.state import list_actors

    actors = list_actors(
        filters=[("state", "=", "ALIVE")], detail=True, limit=_MOST_ACTORS, raise_on_missing_output=False
    )
    return [actor for actor in actors if actor.pid and actor.node_id]


if __name__ == "__main__":
    run(work)
