"""Roll a model back through the agent alone. This file imports little, so that an emergency rollback starts at once."""

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
    :param left: the version that lost the traffic; None: none did
    :param traffic_s: seconds until the edge had the new route
    :param unwritten: why the ledger does not have the rollback yet, or why the alias has not moved; `reconcile` does both later.
        Empty: both are done
    """

    run: str
    stable: str
    left: str | None
    traffic_s: float
    unwritten: str = ""


def move_back(agent: Agent, model: str, version: str | None, *, reason: str, actor: str) -> ManualRollback:
    """Move the traffic. Ledger and aliases stay as they are.

    :param version: the version that gets all traffic. None: stable while there is a canary, else the version before stable
    :raises RejectedError: the version has all the traffic already, or is not deployed any more
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
            f"{error}. If the version is not deployed any more, let the DAG `rollback` deploy it first: "
            f"taxiway airflow dags trigger rollback{conf}"
        ) from error
    return ManualRollback(run, stable, left, time.monotonic() - began)


def _send_to(agent: Agent, model: str, version: str, run: str) -> str | None:
    """Send all traffic to one version, and return the version that loses it."""
    now = agent.route(model)
    if now is not None and now.stable == version and now.canary is None:
        raise RejectedError(f"version {version} of {model} has all the traffic already")
    # The route gets a new holder, so that a release under way cannot move the traffic again before the ledger stops it.
    route = Route(model=model, stable=version, unit=now.unit if now else None, holder=f"{model}/{run}")
    agent.set_route(route, force=True)
    if now is None:
        return None
    return now.canary if now.stable == version else now.stable
