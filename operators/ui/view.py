"""What the console shows of each model. Reads only."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from operators.core.errors import ServiceRefusedError
from operators.core.ledger import Entry, Ledger
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Judge
from operators.core.traffic import RouteState
from operators.judge.evidence import Evidence, Reading
from operators.judge.policy import judge
from operators.registry.client import CHALLENGER, CHAMPION, Registry
from operators.registry.server import is_missing
from operators.rollout.quarantine import LIFTED, QUARANTINED, Quarantined, standing
from operators.rollout.reconcile.client import models
from operators.traffic.client import Agent

_DECISIONS = 8
_TOLD = (
    "promoted", "rolled_back", "manual_rollback", "abandoned", "withdrawn", "watch_ended", "reconciled", "quarantine_lifted",
    "quarantined", "approval", "verdict", "edge",
)  # fmt: skip


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Decision(_View):
    """One row of the ledger, in a few words."""

    at: datetime
    kind: str
    text: str


class ReleaseView(_View):
    """A release that is under way.

    :param since: when its step began
    :param look: number of the last look in its step; 0: none yet
    :param guards: what the guards say of the last look
    """

    release_id: str
    version: str | None
    step: str
    since: datetime | None
    look: int
    looked_at: datetime | None
    guards: dict[str, Reading]


class ModelView(_View):
    """What the console shows of one model.

    :param weight_pct: the canary's share as it was set
    :param weight_now_pct: the share in force: 0 once the lease has ended
    :param control: whether the canary is the old version, after a promotion
    """

    name: str
    stable: str | None
    champion: str | None
    challenger: str | None
    canary: str | None
    shadow: str | None
    control: bool
    weight_pct: float
    weight_now_pct: float
    breaker_open: bool
    release: ReleaseView | None
    quarantine: tuple[Quarantined, ...]
    decisions: tuple[Decision, ...]


class Console:
    """Reads from ledger, registry and agent; all three may be shared by threads."""

    def __init__(self, ledger: Ledger, registry: Registry, agent: Agent) -> None:
        self._ledger, self._registry, self._agent = ledger, registry, agent

    def names(self) -> list[str]:
        """Return the name of every model that the ledger or the agent knows."""
        return models(self._ledger, self._agent)

    def view(self, names: list[str]) -> list[ModelView]:
        """Return what there is to see of some models."""
        routes = self._agent.routes()
        return [self._model(name, routes.get(name)) for name in names]

    def _model(self, name: str, route: RouteState | None) -> ModelView:
        known = self._registry.model(name)
        aliases = known.aliases if known else {}
        rows = self._ledger.entries(name, kind=_TOLD, last=_DECISIONS)
        return ModelView(
            name=name,
            stable=route.stable if route else None,
            champion=aliases.get(CHAMPION),
            challenger=aliases.get(CHALLENGER),
            canary=route.canary if route else None,
            shadow=route.shadow if route else None,
            control=bool(route and route.from_top),
            weight_pct=route.weight_bp / 100 if route else 0.0,
            weight_now_pct=route.weight_now_bp / 100 if route else 0.0,
            breaker_open=bool(route and route.breaker == "open"),
            release=self._release(name),
            quarantine=standing(self._ledger.entries(name, kind=(QUARANTINED, LIFTED))),
            decisions=tuple(Decision(at=row.at, kind=row.kind, text=in_words(row)) for row in reversed(rows)),
        )

    def _release(self, name: str) -> ReleaseView | None:
        release_id = self._ledger.holder(name)
        if release_id is None:
            return None
        started = self._ledger.entry(f"{release_id}/started")
        version = started.payload.get("version") if started else None
        made = self._ledger.entries(name, release_id=release_id, kind="weight_set", last=1)
        looks = self._ledger.looks(release_id, last=1)
        return ReleaseView(
            release_id=release_id,
            version=version,
            step=made[-1].payload["step"] if made else "begin",
            since=made[-1].at if made else None,
            look=looks[-1].n if looks else 0,
            looked_at=looks[-1].at if looks else None,
            guards=self._guards(name, version, looks[-1].evidence) if looks and version else {},
        )

    def _guards(self, name: str, version: str, seen: dict[str, Any]) -> dict[str, Reading]:
        """Ask the judge once more: what e-values and intervals are depends on the spec and the evidence only."""
        try:
            spec_json = self._registry.version(name, version).tags.get("taxiway.spec", "")
        except ServiceRefusedError as error:
            if is_missing(error):
                return {}
            raise
        policy = _policy(spec_json)
        return dict(judge(policy, Evidence.model_validate(seen), elapsed_s=0.0, bake_s=1.0).guards) if policy else {}


@lru_cache(maxsize=64)
def _policy(spec_json: str) -> Judge | None:
    """Return the judge of a spec; None for a version that was registered by somebody else, or by an older Taxiway."""
    try:
        return ModelSpec.from_json(spec_json).release.judge
    except ValueError:
        return None


def in_words(row: Entry) -> str:
    """Say in a few words what a row decided."""
    said = row.payload
    if row.kind == "verdict":
        return f"{said['step']}: {said['judgement']['outcome']}: {said['judgement']['reason']}"
    if row.kind == "promoted":
        return f"version {said['version']} in place of {said['previous'] or 'nothing'}"
    if row.kind == "rolled_back":
        return f"version {said['version']}; {said['stable'] or 'nothing'} has the traffic: {said['reason']}"
    if row.kind == "manual_rollback":
        return f"to version {said['version']}, by {said['actor']}: {said['reason']}"
    if row.kind == "approval":
        return f"{said['step']}: {said['answer']}, by {said['by']}"
    words = (f"{key} {said[key]}" for key in ("kind", "version", "by", "why", "reason", "did") if said.get(key))
    return ", ".join(words)
