"""The agent's HTTP API."""

from __future__ import annotations

import logging
import time
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from operators.core.errors import ConfigurationError, TaxiwayError
from operators.core.explain_error import dotted, sentence
from operators.core.traffic import (
    MODEL_PATTERN,
    VERSION_PATTERN,
    AppState,
    Counters,
    JournalEntry,
    RolledBack,
    RouteBody,
    RouteState,
)
from ray_jobs.agent import metrics
from ray_jobs.agent.agent import Agent
from ray_jobs.agent.rules import RefusedError, UnknownError
from ray_jobs.agent.wire import Deploy, Health, Live, Orders, Problem, Renewal, Report, Rollback, RouteUpdate

_Model = Annotated[str, Path(pattern=MODEL_PATTERN)]
_Version = Annotated[str, Path(pattern=VERSION_PATTERN)]
_Caller = Annotated[str | None, Query(max_length=250, description="on whose behalf the route is moved")]
_Force = Annotated[bool, Query(description="also if another holder has the route")]
_log = logging.getLogger(__name__)


def application(agent: Agent) -> FastAPI:
    """Return the API of an agent, without its guard."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": meaning} for status, meaning in _PROBLEMS.items()
    }
    app = FastAPI(
        title="Taxiway's agent",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        responses=problems,
        separate_input_output_schemas=False,
    )
    app.include_router(_routes(agent))
    app.include_router(_others(agent))
    document: dict[str, Any] = {}

    @app.get("/v1/openapi.json")
    async def openapi() -> JSONResponse:
        """Return this document."""
        return JSONResponse(document)

    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    document.update(_document(app))
    return app


def _routes(agent: Agent) -> APIRouter:
    """Routes, leases, rollback, counters."""
    api = APIRouter(tags=["traffic"])

    @api.get("/v1/routes")
    async def routes() -> dict[str, RouteState]:
        """Return where every model's traffic goes."""
        return agent.traffic.routes()

    @api.put("/v1/routes/{model}")
    async def set_route(model: _Model, body: RouteBody, holder: _Caller = None, force: _Force = False) -> RouteUpdate:
        """Move traffic, all of the route at once. 409: a version does not run, or another holder has the route."""
        return await agent.traffic.set_route(model, body, caller=holder, force=force)

    @api.delete("/v1/routes/{model}")
    async def remove_route(model: _Model, holder: _Caller = None, force: _Force = False) -> dict[str, str]:
        """Forget a model: its callers get 404. 409: `holder` is given, and another one has the route."""
        await agent.traffic.remove_route(model, caller=holder, force=force)
        return {}

    @api.post("/v1/routes/{model}/renew")
    async def renew(model: _Model, body: Renewal) -> RouteUpdate:
        """Renew a lease. 409: somebody else holds it, or it has ended."""
        return await agent.traffic.renew(model, body)

    @api.get("/v1/counters/{model}")
    async def counters(model: _Model) -> Counters:
        """Return the counters of every arm, on each edge and in sum. This renews no lease."""
        return agent.edges.counters(model, await agent.edges.read(model))

    @api.post("/v1/rollback/{model}")
    async def roll_back(model: _Model, body: Rollback) -> RolledBack:
        """Take the canary's weight; without a canary, go back to the version before. 409: it is not deployed any more."""
        return await agent.traffic.roll_back(model, body)

    return api


def _others(agent: Agent) -> APIRouter:
    """Health, versions, journal, metrics, keepers."""
    api = APIRouter()

    @api.get("/v1/health/live", tags=["health"])
    async def live() -> Live:
        """Answer that the agent runs. The only path that needs no token."""
        return Live()

    @api.get("/v1/health", tags=["health"])
    async def health() -> Health:
        """Return whether callers are answered."""
        return agent.traffic.health()

    @api.get("/v1/apps", tags=["versions"])
    async def apps() -> dict[str, AppState]:
        """Return every version that is there, by `<model>-<version>`."""
        return await agent.apps.states()

    @api.get("/v1/apps/{model}/{version}", tags=["versions"])
    async def app_state(model: _Model, version: _Version) -> AppState:
        """Return where a version stands."""
        return await agent.apps.state(model, version)

    @api.put("/v1/apps/{model}/{version}", status_code=202, tags=["versions"])
    async def deploy(model: _Model, version: _Version, body: Deploy) -> AppState:
        """Start deploying a version; asking again is harmless."""
        return await agent.apps.deploy(model, version, body.spec, body.model_uri)

    @api.delete("/v1/apps/{model}/{version}", status_code=202, tags=["versions"])
    async def retire(
        model: _Model, version: _Version, drain_s: Annotated[float, Query(ge=0, le=86_400)] = 30.0
    ) -> AppState:
        """Delete a version once its requests are through, or after `drain_s`. 409: it is in the route."""
        return await agent.apps.retire(model, version, drain_s)

    @api.get("/v1/journal", tags=["journal"])
    async def journal(
        after: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
    ) -> list[JournalEntry]:
        """Return what the agent and the edges did by themselves, oldest first; `after`: number of the last known entry."""
        return [JournalEntry.model_validate(entry) for entry in await agent.entries(after, limit)]

    @api.get("/metrics", tags=["metrics"], response_class=Response)
    async def prometheus() -> Response:
        """Return the counters as Prometheus text."""
        routes = agent.traffic.routes()
        await agent.edges.read(*routes)
        readings = {model: agent.edges.readings(model) for model in routes}
        text = metrics.exposition(readings, routes, agent.edges.states(), time.time())
        return Response(text, media_type=metrics.CONTENT_TYPE)

    @api.post("/v1/edges/{edge}/sync", tags=["edges"])
    async def sync(edge: Annotated[str, Path(pattern=r"^[A-Za-z0-9_.:\[\]-]{1,100}$")], body: Report) -> Orders:
        """Take a keeper's report. Answer when there are new orders for it, at the latest after a second."""
        return await agent.edges.sync(edge, body)

    return api


# ---------------------------------------------------------------------- errors

_PROBLEMS = {
    400: "the request is not valid",
    401: "no token, or not the right one",
    404: "there is no such thing",
    409: "the request is understood, and may not be carried out now",
    413: "the body is too large",
    503: "Ray, Serve or HAProxy is away; try again",
}


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(_words(one) for one in error.errors()[:5])
    return _problem(400, f"{problems}. GET /v1/openapi.json describes every field")


def _words(error: Any) -> str:
    kind, *where = error["loc"]
    return f"{kind}: {dotted(where)}: {sentence(error)}"


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    known = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not allowed here"}
    problem = known.get(error.status_code, str(error.detail))
    return _problem(error.status_code, f"{problem}; GET /v1/openapi.json lists every path")


def _as(status: int) -> Any:
    def handler(_: Request, error: Exception) -> JSONResponse:
        return _problem(status, str(error))

    return handler


def _failed(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _problem(500, f"the agent failed with {type(error).__name__}; see its log")


def _problem(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)


_HANDLERS: dict[Any, Any] = {
    RequestValidationError: _invalid,
    HTTPException: _http,
    RefusedError: _as(409),
    UnknownError: _as(404),
    ConfigurationError: _as(400),
    TaxiwayError: _as(503),
    OSError: _as(503),
    Exception: _failed,
}


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document: with the token, and without status 422, in whose place this API answers 400."""
    document = app.openapi()
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path == "/v1/health/live":
                operation["security"] = []
    return document
