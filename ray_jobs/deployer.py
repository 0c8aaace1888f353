"""Deploy and retire versions on Ray Serve: each an application of its own, so that no update touches a running version.

`serve.run` adds one application and leaves the others alone; `PUT /api/serve/applications/` would replace them all.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from operators.core.spec import ModelSpec

_PROBE_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


class Deployer:
    """Runs in a process that stays warm: importing Serve anew for every deployment costs more than deploying.

    :param serve_url: Serve's proxy
    :param runtime_env: what brings the code to the replicas; empty where they have it
    :param orders_path: where the deployments that were asked for are kept, so that a new cluster can be filled again
    """

    def __init__(self, serve_url: str, orders_path: Path, runtime_env: dict[str, Any]) -> None:
        self._serve_url = serve_url
        self._runtime_env = runtime_env
        self._orders_path = orders_path
        self._orders: dict[str, list[str]] = (
            json.loads(orders_path.read_text(encoding="utf-8")) if orders_path.exists() else {}
        )
        self._lock = threading.Lock()
        self._busy: dict[str, str] = {}  # application → what its deployment said last

    def deploy(self, model: str, version: str, spec_json: str, model_uri: str) -> dict[str, Any]:
        """Start deploying a version and return its state; a second call finds the first."""
        spec = ModelSpec.from_json(spec_json)
        if spec.name != model:
            raise ValueError(f"the spec is of {spec.name!r}, not of {model!r}")
        state = self.state(model, version)
        if state["status"] in ("RUNNING", "DEPLOYING", "DELETING"):
            return state
        name = _name(model, version)
        with self._lock:
            if self._busy.get(name) == "DEPLOYING":
                return self.state(model, version)
            self._busy[name] = "DEPLOYING"
            self._orders[name] = [model, version, spec_json, model_uri]
            self._keep_orders()
        threading.Thread(target=self._run, args=(name, spec, version, model_uri), daemon=True).start()
        return self.state(model, version)

    def _run(self, name: str, spec: ModelSpec, version: str, model_uri: str) -> None:
        from ray import serve

        from ray_jobs.serving import application

        said = ""
        try:
            bound = application(spec, version, model_uri, self._runtime_env)
            serve.run(bound, name=name, route_prefix=f"/{spec.name}/{version}")
        except Exception as error:  # noqa: BLE001 - the state that callers read says what happened
            _log.exception("deploying %s failed", name)
            said = f"{type(error).__name__}: {error}"
        with self._lock:
            self._busy[name] = said

    def state(self, model: str, version: str) -> dict[str, Any]:
        """Return ``status`` (NOT_STARTED, DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, DELETING) and ``message``.

        RUNNING means that it answers through Serve's proxy, which hears of a version some time after it runs.
        """
        state = self.states().get(_name(model, version), {"status": "NOT_STARTED", "message": ""})
        if state["status"] == "RUNNING" and not self._answers(model, version):
            return {"status": "DEPLOYING", "message": "it runs; Serve's proxy does not know it yet"}
        return state

    def _answers(self, model: str, version: str) -> bool:
        url = f"{self._serve_url}/{model}/{version}/v2/models/{model}/ready"
        try:
            with urlopen(url, timeout=_PROBE_TIMEOUT_S) as answer:  # noqa: S310 - our own Serve, from the settings
                return bool(answer.status == 200)
        except OSError:  # refused, timed out, or an answer that is not a success
            return False

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the state of every application, by ``<model>-<version>``."""
        from ray import serve

        found = {}
        for name, app in serve.status().applications.items():
            replicas = [m.message for m in app.deployments.values() if m.message]
            found[name] = {"status": str(app.status.value), "message": "; ".join([app.message, *replicas]).strip("; ")}
        with self._lock:
            for name, said in self._busy.items():
                if said == "DELETING":
                    found[name] = {"status": "DELETING", "message": ""}
                elif said == "DEPLOYING" and found.get(name, {}).get("status") != "RUNNING":
                    found[name] = {"status": "DEPLOYING", "message": ""}  # whatever an earlier try has left
                elif name not in found and said:
                    found[name] = {"status": "DEPLOY_FAILED", "message": said}
        return found

    def begin_to_retire(self, model: str, version: str) -> None:
        """From now on the version counts as going."""
        with self._lock:
            self._busy[_name(model, version)] = "DELETING"

    def retire(self, model: str, version: str) -> None:
        """Delete an application and wait until its replicas have drained; one that is not there is as good as retired."""
        from ray import serve

        name = _name(model, version)
        try:
            if name in serve.status().applications:
                serve.delete(name)
        finally:
            with self._lock:
                self._busy.pop(name, None)
                if self._orders.pop(name, None):
                    self._keep_orders()

    def restore(self, routed: set[tuple[str, str]]) -> None:
        """Deploy what has traffic and is not there: after a stop, Ray comes back empty and the edge does not."""
        for order in list(self._orders.values()):
            if (order[0], order[1]) in routed:
                self.deploy(*order)

    def _keep_orders(self) -> None:
        fresh = self._orders_path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self._orders), encoding="utf-8")
        fresh.replace(self._orders_path)


def _name(model: str, version: str) -> str:
    return f"{model}-{version}"
