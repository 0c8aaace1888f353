"""The agent's admin API: deploy versions, set routes, renew leases, read counters."""

from __future__ import annotations

from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field

from operators.core.http import answer, async_client, client, unreachable
from operators.core.settings import setting
from operators.core.spec import ModelSpec
from operators.judge.tally import Counters

_SERVICE = "the agent"


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class Route(_Said):
    """Which versions of a model answer, and for whom. The edge takes all of it in one step.

    :param weight_bp: the canary's share of the units, in basis points (0.01 %)
    :param from_top: the canary gets the units with the highest buckets: the control after a promotion
    :param holdout_bp: share of the units that never see a canary
    :param shadow: version that gets copies of requests, and whose answers nobody sees
    :param unit: header or JSON field that callers are assigned by; None: the edge's own header
    :param testers: whether a header may choose the version
    :param slow_us: an answer that took longer counts as slow
    :param lease_s: seconds that a weight holds without renewal
    :param holder: id of the release that moves this route
    """

    model: str
    stable: str | None
    canary: str | None = None
    weight_bp: int = 0
    from_top: bool = False
    holdout_bp: int = 0
    shadow: str | None = None
    shadow_bp: int = 0
    shadow_max_in_flight: int = 16
    unit: dict[str, str] | None = None
    testers: bool = False
    slow_us: int | None = None
    canary_timeout_ms: int = 2000
    max_in_flight: int = 64
    lease_s: float | None = None
    holder: str | None = None


class RouteState(Route):
    """A route as it stands at the edge.

    :param weight_now_bp: 0 once the lease has ended
    """

    lease_expires_at: float | None = None
    weight_now_bp: int = 0
    breaker: Literal["closed", "open"] = "closed"


class AppState(_Said):
    """Where the deployment of a version stands."""

    status: str
    message: str


class JournalEntry(_Said):
    """Something that the agent did by itself."""

    model_config = ConfigDict(frozen=True, extra="allow")

    seq: int
    at: float
    kind: str
    model: str | None = None


class RolledBack(_Said):
    """What a rollback at the agent did."""

    stable: str
    left: str | None = Field(description="the version that lost its traffic")


class Agent:
    """Blocking calls, for tasks."""

    def __init__(self) -> None:
        self._http = client(_url(), token=_token(), timeout_s=60.0)

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

    def retire(self, model: str, version: str, *, drain_s: float = 30.0) -> None:
        """Delete a version once its requests are through, or the time for that has passed.

        :raises ServiceRefusedError: it has traffic
        """
        self._call("DELETE", f"/v1/apps/{model}/{version}?drain_s={drain_s:g}")

    def routes(self) -> dict[str, RouteState]:
        """Return where every model's traffic goes."""
        return {name: RouteState(**{**row, "model": name}) for name, row in self._call("GET", "/v1/routes").items()}

    def route(self, model: str) -> RouteState | None:
        """Return where a model's traffic goes, or None if the edge does not know the model."""
        return self.routes().get(model)

    def set_route(self, route: Route, *, force: bool = False) -> None:
        """Move traffic, all of the route at once.

        :param force: also if another release holds the route: the ledger has said that it no longer does
        :raises ServiceRefusedError: a version does not run, or another release holds the route
        """
        query = "?force=true" if force else ""
        self._call("PUT", f"/v1/routes/{route.model}{query}", route.model_dump(exclude={"model"}))

    def remove_route(self, model: str) -> None:
        """Forget a model: its callers get 404."""
        self._call("DELETE", f"/v1/routes/{model}")

    def counters(self, model: str) -> Counters:
        """Return what every arm did since the counting began."""
        return Counters.model_validate(self._call("GET", f"/v1/counters/{model}"))

    def roll_back(self, model: str, *, reason: str, actor: str) -> RolledBack:
        """Take the canary's traffic, or go back to the version before, at once and without anybody else.

        :raises ServiceRefusedError: there is nothing deployed to go back to
        """
        return RolledBack.model_validate(
            self._call("POST", f"/v1/rollback/{model}", {"reason": reason, "actor": actor})
        )

    def journal(self, *, after: int = 0) -> list[JournalEntry]:
        """Return what the agent did by itself, oldest first."""
        return [JournalEntry.model_validate(row) for row in self._call("GET", f"/v1/journal?after={after}")]

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
        return AppState.model_validate(await self._call("GET", f"/v1/apps/{model}/{version}"))

    async def counters(self, model: str) -> Counters:
        """Return what every arm did since the counting began."""
        return Counters.model_validate(await self._call("GET", f"/v1/counters/{model}"))

    async def renew(self, model: str, holder: str) -> None:
        """Renew the lease of a canary.

        :raises ServiceRefusedError: it has ended, or another release holds the route
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
