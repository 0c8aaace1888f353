"""Deploy and delete versions on Ray Serve: each an application of its own, so that no update touches a running version.

`serve.run_many` adds applications and leaves the others alone; `PUT /api/serve/applications/` would replace them all.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from operators.core.errors import ConfigurationError, ServiceError
from operators.core.spec import PredictionSpec
from operators.core.traffic import AppState
from ray_jobs.edge.files import write

_log = logging.getLogger(__name__)
# While Serve builds an application it changes how all of the process pickles Ray's modules: two at once fail.
_BUILDING = threading.Lock()


class Deployer:
    """Deploys through Ray Serve. Keep one: importing Serve costs more than a deployment.

    :param serve_url: Serve's proxy
    :param folder: where the deployments that were asked for are kept, so that a new cluster can be filled again
    :param runtime_env: what brings the code to the replicas; empty where they have it
    """

    def __init__(self, serve_url: str, folder: Path, runtime_env: dict[str, Any]) -> None:
        self._serve_url = serve_url
        self._runtime_env = runtime_env
        self._path = folder / "orders.json"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._orders: dict[str, list[str]] = (
            json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        )
        self._lock = threading.Lock()
        self._deploying: set[str] = set()
        self._failed: dict[str, str] = {}  # application → why its deployment failed

    def deploy(self, model: str, version: str, spec_json: str, model_uri: str) -> None:
        """Start deploying a version. A second call while it is being deployed does nothing.

        :raises ConfigurationError: the spec is not valid, or another model's
        """
        spec = PredictionSpec.from_json(spec_json)
        if spec.name != model:
            raise ConfigurationError(f"the spec is of {spec.name!r}, not of {model!r}; send the spec of {model!r}")
        name = _name(model, version)
        state = self.states().get(name)
        if state is not None and state.status in ("RUNNING", "DEPLOYING", "DELETING"):
            return
        with self._lock:
            if name in self._deploying:
                return
            self._deploying.add(name)
            self._failed.pop(name, None)
            self._orders[name] = [model, version, spec_json, model_uri]
            self._keep_orders()
        threading.Thread(target=self._run, args=(name, spec, version, model_uri), daemon=True).start()

    def _run(self, name: str, spec: PredictionSpec, version: str, model_uri: str) -> None:
        from ray import serve

        from ray_jobs.serve.version import application

        try:
            with _BUILDING:
                bound = application(spec, version, model_uri, self._runtime_env)
                target = serve.RunTarget(bound, name=name, route_prefix=f"/{spec.name}/{version}")
                # Do not wait: a version that never comes up must not hold up others. Serve keeps the states.
                serve.run_many(
                    [target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
                )
        except Exception as error:  # noqa: BLE001 - it becomes the version's state
            _log.exception("deploying %s failed", name)
            with self._lock:
                self._failed[name] = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._deploying.discard(name)

    def states(self) -> dict[str, AppState]:
        """Return the state of every application, by ``<model>-<version>``.

        :raises ServiceError: Ray does not answer
        """
        from ray import serve

        with _asking_ray():
            applications = serve.status().applications
        states = {}
        for name, app in applications.items():
            replicas = [m.message for m in app.deployments.values() if m.message]
            message = "; ".join([app.message, *replicas]).strip("; ")
            states[name] = AppState.model_validate({"status": str(app.status.value), "message": message})
        with self._lock:
            for name in self._deploying:
                if name not in states or states[name].status != "RUNNING":
                    states[name] = AppState(status="DEPLOYING")  # an earlier try may have left another state
            for name, problem in self._failed.items():
                states.setdefault(name, AppState(status="DEPLOY_FAILED", message=problem))
        return states

    def answers(self, model: str, version: str, timeout_s: float) -> bool:
        """Tell whether a version answers through Serve's proxy, which learns of it some time after it runs."""
        url = f"{self._serve_url}/{model}/{version}/v2/models/{model}/ready"
        try:
            with urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - our own Serve, from the settings
                return bool(answer.status == 200)
        except OSError:  # refused, timed out, or an answer that is not a success
            return False

    def delete(self, model: str, version: str) -> None:
        """Delete an application, and wait until its replicas have gone. Do nothing if it is not there.

        :raises ServiceError: Ray does not answer
        """
        from ray import serve

        name = _name(model, version)
        with _asking_ray():
            if name in serve.status().applications:
                serve.delete(name)
        with self._lock:
            self._failed.pop(name, None)
            if self._orders.pop(name, None):
                self._keep_orders()

    def restore(self, routed: set[tuple[str, str]]) -> None:
        """Deploy what has traffic and is missing: a new Ray cluster is empty, while the edge kept its routes.

        :param routed: model and version
        """
        for model, version, spec_json, model_uri in list(self._orders.values()):
            if (model, version) in routed:
                self.deploy(model, version, spec_json, model_uri)

    def _keep_orders(self) -> None:
        write(self._path, json.dumps(self._orders))


@contextmanager
def _asking_ray() -> Iterator[None]:
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RayError, RayServeException, OSError) as error:
        raise ServiceError(f"Ray Serve does not answer: {type(error).__name__}: {error}; try again") from error


def _name(model: str, version: str) -> str:
    return f"{model}-{version}"
