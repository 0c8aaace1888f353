"""The agent's admin API: deploy versions, set routes, read counters."""

from __future__ import annotations

import math
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from operators.core.http import answer, async_client, client, unreachable
from operators.core.settings import setting
from operators.core.spec import ModelSpec
from operators.rollout.policy import Arm

_SERVICE = "the agent"


class Route(BaseModel):
    """Which versions of a model answer, and the canary's share in basis points (0.01 %)."""

    model_config = ConfigDict(frozen=True)

    model: str
    stable: str | None
    canary: str | None
    weight_bp: int


class AppState(BaseModel):
    """Where the deployment of a version stands."""

    model_config = ConfigDict(frozen=True)

    status: str
    message: str


class Counters(BaseModel):
    """Both arms of a model at one moment."""

    model_config = ConfigDict(frozen=True)

    canary: Arm
    stable: Arm


class Agent:
    """Blocking calls, for tasks."""

    def __init__(self) -> None:
        self._http = client(_url(), token=_token(), timeout_s=60.0)  # a version that goes drains first

    def deploy(self, spec: ModelSpec, version: str, model_uri: str) -> AppState:
        """Start deploying a version; asking again is harmless."""
        body = {"spec": spec.to_json(), "model_uri": model_uri}
        return AppState.model_validate(self._call("PUT", f"/v1/apps/{spec.name}/{version}", body))

    def app(self, model: str, version: str) -> AppState:
        """Return where a version stands."""
        return AppState.model_validate(self._call("GET", f"/v1/apps/{model}/{version}"))

    def apps(self) -> dict[str, AppState]:
        """Return every application, by ``<model>-<version>``."""
        return {name: AppState.model_validate(state) for name, state in self._call("GET", "/v1/apps").items()}

    def retire(self, model: str, version: str) -> None:
        """Delete a version that has no traffic.

        :raises ServiceRefusedError: it has traffic
        """
        self._call("DELETE", f"/v1/apps/{model}/{version}")

    def route(self, model: str) -> Route | None:
        """Return where a model's traffic goes, or None if the edge does not know the model."""
        found = self._call("GET", "/v1/routes").get(model)
        return Route.model_validate(found) if found else None

    def set_route(self, route: Route) -> None:
        """Move traffic, all of the route at once."""
        self._call("PUT", f"/v1/routes/{route.model}", route.model_dump(exclude={"model"}))

    def remove_route(self, model: str) -> None:
        """Forget a model: its callers get 404."""
        self._call("DELETE", f"/v1/routes/{model}")

    def counters(self, model: str, *, canary: str, stable: str) -> Counters:
        """Return what both arms did since the edge started."""
        return _counters(self._call("GET", f"/v1/counters/{model}"), canary, stable)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return answer(self._http.request(method, path, json=body), _SERVICE)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


class AsyncAgent:
    """What triggers need, without blocking their event loop."""

    def __init__(self) -> None:
        self._http = async_client(_url(), token=_token())

    async def app(self, model: str, version: str) -> AppState:
        """Return where a version stands."""
        return AppState.model_validate(await self._get(f"/v1/apps/{model}/{version}"))

    async def counters(self, model: str, *, canary: str, stable: str) -> Counters:
        """Return what both arms did since the edge started."""
        return _counters(await self._get(f"/v1/counters/{model}"), canary, stable)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _get(self, path: str) -> Any:
        try:
            return answer(await self._http.get(path), _SERVICE)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


def _url() -> str:
    return setting("TAXIWAY_AGENT_URL", "address of the agent's admin API")


def _token() -> str:
    return setting("TAXIWAY_AGENT_TOKEN", "token of the agent's admin API")


def _counters(rows: list[dict[str, Any]], canary: str, stable: str) -> Counters:
    def arm(version: str, name: str) -> Arm:
        for row in rows:
            if row["version"] == version and row["arm"] == name:
                latency = tuple((math.inf if bound is None else bound, n) for bound, n in row["latency"])
                return Arm(requests=row["requests"], failures=row["failures"], latency=latency)
        return Arm(requests=0, failures=0, latency=())

    return Counters(canary=arm(canary, "canary"), stable=arm(stable, "stable"))
