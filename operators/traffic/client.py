"""The agent's admin API: deploy versions, set routes, renew leases, read counters."""

from __future__ import annotations

from typing import Any

import httpx

from operators.core.http import answer, async_client, client, unreachable
from operators.core.settings import setting
from operators.core.spec import ModelSpec
from operators.core.traffic import AppState, Counters, JournalEntry, RolledBack, Route, RouteState

_SERVICE = "the agent"


class Agent:
    """Blocking calls, for tasks."""

    def __init__(self) -> None:
        self._http = client(_url(), token=_token(), timeout_s=60.0)

    def deploy(self, spec: ModelSpec, version: str, model_uri: str) -> AppState:
        """Start to deploy a version. A second call does no harm."""
        body = {"spec": spec.to_json(), "model_uri": model_uri}
        return AppState.model_validate(self._call("PUT", f"/v1/apps/{spec.name}/{version}", body))

    def app(self, model: str, version: str) -> AppState:
        """Return the state of a version's deployment."""
        return AppState.model_validate(self._call("GET", f"/v1/apps/{model}/{version}"))

    def apps(self) -> dict[str, AppState]:
        """Return the state of every version's deployment, by ``<model>-<version>``."""
        return {name: AppState.model_validate(state) for name, state in self._call("GET", "/v1/apps").items()}

    def retire(self, model: str, version: str, *, drain_s: float = 30.0) -> None:
        """Delete a version once its requests are answered.

        :param drain_s: after this time it is deleted even if it still has requests
        :raises ServiceRefusedError: it has traffic
        """
        self._call("DELETE", f"/v1/apps/{model}/{version}?drain_s={drain_s:g}")

    def routes(self) -> dict[str, RouteState]:
        """Return every model's route."""
        return {name: RouteState.model_validate(row) for name, row in self._call("GET", "/v1/routes").items()}

    def route(self, model: str) -> RouteState | None:
        """Return a model's route, or None if the edge does not know the model."""
        return self.routes().get(model)

    def set_route(self, route: Route, *, force: bool = False) -> None:
        """Replace a model's route.

        :param force: replace it even if another release holds it; for when that release no longer has the ledger's claim
        :raises ServiceRefusedError: a version does not run, or another release holds the route
        """
        query = "?force=true" if force else ""
        self._call("PUT", f"/v1/routes/{route.model}{query}", route.model_dump(exclude={"model"}))

    def remove_route(self, model: str) -> None:
        """Remove a model's route: its callers get 404."""
        self._call("DELETE", f"/v1/routes/{model}")

    def counters(self, model: str) -> Counters:
        """Return the model's counters, by version and arm."""
        return Counters.model_validate(self._call("GET", f"/v1/counters/{model}"))

    def roll_back(self, model: str, *, reason: str, actor: str) -> RolledBack:
        """Give stable the canary's traffic or, without a canary and in the watch, go back to the version before.

        :raises ServiceRefusedError: there is no version before that is still deployed
        """
        return RolledBack.model_validate(
            self._call("POST", f"/v1/rollback/{model}", {"reason": reason, "actor": actor})
        )

    def journal(self, *, after: int = 0) -> list[JournalEntry]:
        """Return what agent and edges did by themselves, oldest first.

        :param after: only entries with a higher number
        """
        return [JournalEntry.model_validate(row) for row in self._call("GET", f"/v1/journal?after={after}")]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return answer(self._http.request(method, path, json=body), _SERVICE)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


class AsyncAgent:
    """The calls that triggers make, without blocking their event loop."""

    def __init__(self) -> None:
        self._http = async_client(_url(), token=_token())

    async def app(self, model: str, version: str) -> AppState:
        """Return the state of a version's deployment."""
        return AppState.model_validate(await self._call("GET", f"/v1/apps/{model}/{version}"))

    async def counters(self, model: str) -> Counters:
        """Return the model's counters, by version and arm."""
        return Counters.model_validate(await self._call("GET", f"/v1/counters/{model}"))

    async def renew(self, model: str, holder: str) -> None:
        """Renew the lease of a canary.

        :raises ServiceRefusedError: the lease has ended, or another release holds the route
        """
        await self._call("POST", f"/v1/routes/{model}/renew", {"holder": holder})

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return answer(await self._http.request(method, path, json=body), _SERVICE)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


def _url() -> str:
    return setting("TAXIWAY_AGENT_URL", "address of the agent's admin API")


def _token() -> str:
    return setting("TAXIWAY_AGENT_TOKEN", "token of the agent's admin API")
