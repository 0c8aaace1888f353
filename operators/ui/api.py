"""The console's routes, mounted below Airflow's API server. Airflow protects none of them, so each checks the user here.

A user who may read a model's release DAG sees the model; one who may edit the DAG may roll the model back and lift a quarantine.
Airflow's session is a cookie, so a request that changes something must be one that another site's page cannot send: JSON,
with a header of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path as File
from typing import Annotated
from uuid import uuid4

from airflow.api_fastapi.core_api.security import (
    GetUserDep,
    requires_access_dag,
    requires_authenticated,
)
from fastapi import Depends, FastAPI, HTTPException, Path, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from operators.core.errors import ConfigurationError, RejectedError, ServiceError, ServiceRefusedError, TaxiwayError
from operators.core.ledger import Ledger
from operators.core.settings import Settings
from operators.registry.client import Registry
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.quarantine import Quarantine
from operators.traffic.client import Agent
from operators.ui.view import Console, ModelView

_STATIC = File(__file__).resolve().parent / "static"
_HEADER, _HEADER_VALUE = "X-Taxiway", "console"
_STATUS = {RejectedError: 409, ServiceRefusedError: 409, ConfigurationError: 500, ServiceError: 503}
_HEADERS = {
    # Airflow may frame the page; scripts and styles come from here only; no cache keeps it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Model = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Version = Annotated[str, Path(pattern=r"^[0-9]{1,9}$")]


class Row(ModelView):
    """One model, and what the user may do with it."""

    may_roll_back: bool


class Reason(BaseModel):
    """The reason, for the ledger."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    reason: str = Field(min_length=3, max_length=500)


class RollbackOrder(Reason):
    """The request of the rollback button."""

    version: str | None = Field(None, pattern=r"^[0-9]{1,9}$", description="null: the version before")


@cache
def services() -> tuple[Ledger, Registry, Agent]:
    """Connect, once in each process."""
    settings = Settings.load()
    return Ledger(settings.ledger_url), Registry(settings.mlflow_url), Agent()


def require_same_site(request: Request) -> None:
    """Refuse every request that was not sent by a page of this server.

    The browser sends cookies with requests of other sites' pages, too, but this header and JSON only after asking this server,
    which refuses.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if kind != "application/json" or request.headers.get(_HEADER) != _HEADER_VALUE or site != "same-origin":
        raise HTTPException(403, f"send JSON from the console itself, with the header {_HEADER}: {_HEADER_VALUE}")


def _allowed(method: str, model: str, request: Request, user: GetUserDep) -> bool:
    try:
        requires_access_dag(method=method, param_dag_id=f"{model}.release")(request, user)
    except HTTPException as error:
        if error.status_code == 403:
            return False
        raise
    return True


def _require_edit(model: str, request: Request, user: GetUserDep) -> None:
    if not _allowed("PUT", model, request, user):
        raise HTTPException(403, f"this needs the right to edit the DAG {model}.release")


def create_app(connect: Callable[[], tuple[Ledger, Registry, Agent]] = services) -> FastAPI:
    """Return the web application of the console.

    :param connect: returns the services; called by the first request that needs them
    """
    # No API documents: FastAPI would show them without a login.
    app = FastAPI(dependencies=[Depends(requires_authenticated())], docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[..., object]) -> Response:
        response: Response = await call_next(request)  # type: ignore[misc]
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(TaxiwayError)
    async def explain(_: Request, error: TaxiwayError) -> JSONResponse:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        return JSONResponse({"error": str(error)}, status_code=status)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(_STATIC / "console.html")

    @app.get("/console.js")
    def script() -> FileResponse:
        return FileResponse(_STATIC / "console.js")

    @app.get("/console.css")
    def style() -> FileResponse:
        return FileResponse(_STATIC / "console.css")

    @app.get("/api/models")
    def models(request: Request, user: GetUserDep) -> list[Row]:
        console = Console(*connect())
        readable = [name for name in console.names() if _allowed("GET", name, request, user)]
        return [
            Row(**dict(view), may_roll_back=_allowed("PUT", view.name, request, user))
            for view in console.view(readable)
        ]

    @app.post("/api/models/{model}/rollback", dependencies=[Depends(require_same_site)])
    def roll_back(
        model: Model, order: RollbackOrder, request: Request, user: GetUserDep
    ) -> dict[str, str | float | None]:
        _require_edit(model, request, user)
        ledger, registry, agent = connect()
        moves = ManualMoves(ModelTraffic(model, ledger=ledger, registry=registry, agent=agent))
        done = moves.return_now(order.version, reason=order.reason, actor=user.get_name())
        facts = {"stable": done.stable, "left": done.left, "unwritten": done.unwritten}
        return {**facts, "traffic_s": round(done.traffic_s, 4)}

    @app.post("/api/models/{model}/quarantine/{version}/lift", dependencies=[Depends(require_same_site)])
    def lift(model: Model, version: Version, order: Reason, request: Request, user: GetUserDep) -> dict[str, bool]:
        _require_edit(model, request, user)
        ledger, registry, _ = connect()
        key = f"{model}/lifted/{uuid4().hex}"
        row = Quarantine(model, ledger, registry).lift(version, by=user.get_name(), reason=order.reason, key=key)
        return {"lifted": row is not None}

    return app


@cache
def app() -> FastAPI:
    """Return the application of this process."""
    return create_app()
