"""Move a model's traffic back through the agent alone. It imports little: in an emergency the traffic comes first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import uuid4

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.core.traffic import Route
from operators.traffic.client import Agent


@dataclass(frozen=True)
class ManualRollback:
    """A rollback that a person asked for.

    :param run: id of this rollback
    :param stable: the version that has the traffic now
    :param left: the version that lost it
    :param traffic_s: seconds until the edge had the new route
    :param unwritten: why the rollback is missing in the ledger, or the alias has not moved; empty: both are done. `reconcile`
        does it later
    """

    run: str
    stable: str
    left: str | None
    traffic_s: float
    unwritten: str = ""


def move_back(agent: Agent, model: str, version: str | None, *, reason: str, actor: str) -> ManualRollback:
    """Move the traffic, and nothing else.

    :param version: where to; None: a canary loses its traffic, and without one the version before takes over
    :raises RejectedError: the version has the traffic already, or is not deployed any more
    """
    began, run = time.monotonic(), f"by-hand-{uuid4().hex}"
    try:
        if version is None:
            done = agent.roll_back(model, reason=reason, actor=actor)
            stable, left = done.stable, done.left
        else:
            stable, left = version, _send_to(agent, model, version, run)
    except ServiceRefusedError as error:
        conf = f' --conf \'{{"model": "{model}", "version": "{version or "…"}", "reason": "…"}}\''
        raise RejectedError(
            f"{error}. A version that is not deployed any more is deployed first by the DAG `rollback`: "
            f"taxiway airflow dags trigger rollback{conf}"
        ) from error
    return ManualRollback(run, stable, left, time.monotonic() - began)


def _send_to(agent: Agent, model: str, version: str, run: str) -> str | None:
    """Send everything to one version; return the one that loses it."""
    now = agent.route(model)
    if now is not None and now.stable == version and now.canary is None:
        raise RejectedError(f"version {version} of {model} has all the traffic already")
    # A holder of its own, so that a release that is under way cannot move it back before the ledger stops it.
    route = Route(model=model, stable=version, unit=now.unit if now else None, holder=f"{model}/{run}")
    agent.set_route(route, force=True)
    if now is None:
        return None
    return now.canary if now.stable == version else now.stable
