"""What the console shows of each model. Reads only."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import ConfigDict

from operators.core import rows
from operators.core.errors import ServiceRefusedError
from operators.core.frozen import Frozen
from operators.core.ledger import Ledger
from operators.core.row_text import in_words
from operators.core.spec import ModelSpec
from operators.core.spec_release import Release
from operators.core.traffic import RouteState
from operators.judge.evidence import Evidence, GuardResult
from operators.judge.phases import phases_of
from operators.judge.policy import judge
from operators.judge.units import unit_of
from operators.judge.wording import Unit
from operators.registry.client import CHALLENGER, CHAMPION, Registry
from operators.registry.server import is_missing
from operators.rollout.quarantine import KINDS, Quarantined, standing
from operators.rollout.reconcile.client import models
from operators.traffic.client import Agent

_DECISIONS = 8
_SHOWN = (
    rows.PromotedRow, rows.RolledBackRow, rows.ManualRollbackRow, rows.AbandonedRow, rows.WithdrawnRow, rows.WatchEndedRow,
    rows.ReconciledRow, rows.QuarantineLiftedRow, rows.QuarantinedRow, rows.ApprovalRow, rows.VerdictRow, rows.EdgeRow,
)  # fmt: skip


class _View(Frozen):
    model_config = ConfigDict(ser_json_inf_nan="strings")


class Decision(_View):
    """One row of the ledger, in a few words."""

    at: datetime
    kind: str
    text: str


class GuardView(GuardResult):
    """A guard's result, with the unit of its interval and its margin: shares are shown in points or %."""

    unit: Unit


class ReleaseView(_View):
    """A release that is under way.

    :param since: when its step began
    :param look: number of the last look in its step; 0: none yet
    :param guards: the guards' results at the last look
    """

    release_id: str
    version: str | None
    step: str
    since: datetime | None
    look: int
    looked_at: datetime | None
    guards: dict[str, GuardView]


class ModelView(_View):
    """What the console shows of one model.

    :param weight_pct: the canary's share as it was set
    :param weight_now_pct: its share now: 0 once the lease has ended
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
        """Return the state of some models."""
        routes = self._agent.routes()
        return [self._model(name, routes.get(name)) for name in names]

    def _model(self, name: str, route: RouteState | None) -> ModelView:
        known = self._registry.model(name)
        aliases = known.aliases if known else {}
        shown = self._ledger.entries(name, kind=[kind.KIND for kind in _SHOWN], last=_DECISIONS)
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
            quarantine=standing(self._ledger.entries(name, kind=KINDS)),
            decisions=tuple(
                Decision(at=row.at, kind=row.kind, text=in_words(rows.read(row))) for row in reversed(shown)
            ),
        )

    def _release(self, name: str) -> ReleaseView | None:
        release_id = self._ledger.holder(name)
        if release_id is None:
            return None
        started = self._ledger.entry(f"{release_id}/started")
        version = rows.ReleaseStartedRow.of(started).version if started else None
        moves = self._ledger.entries(name, release_id=release_id, kind=rows.WeightSetRow.KIND, last=1)
        looks = self._ledger.looks(release_id, last=1)
        return ReleaseView(
            release_id=release_id,
            version=version,
            step=rows.WeightSetRow.of(moves[-1]).step if moves else "begin",
            since=moves[-1].at if moves else None,
            look=looks[-1].n if looks else 0,
            looked_at=looks[-1].at if looks else None,
            guards=self._guards(name, version, looks[-1].evidence) if looks and version else {},
        )

    def _guards(self, name: str, version: str, evidence: dict[str, Any]) -> dict[str, GuardView]:
        """Ask the judge again: e-values and intervals depend on the spec and the evidence alone."""
        try:
            spec_json = self._registry.version(name, version).tags.get("taxiway.spec", "")
        except ServiceRefusedError as error:
            if is_missing(error):
                return {}
            raise
        release = _release_of(spec_json)
        return _results(release, Evidence.model_validate(evidence)) if release else {}


def _results(release: Release, evidence: Evidence) -> dict[str, GuardView]:
    """Ask the judge again, with the margins and the share of alpha of the phase that the evidence is from."""
    newest = evidence.periods[-1].key if evidence.periods else None
    phase = next((phase for phase in phases_of(release) if (phase.kind, phase.weights_bp[-1]) == newest), None)
    parts = phase.policies(release.judge) if phase else (release.judge,)
    harm_weight = phase.harm_weight if phase else 1.0
    results: dict[str, GuardResult] = {}
    for part in parts:
        results |= judge(part, evidence, elapsed_s=0.0, bake_s=1.0, harm_weight=harm_weight).guards
    series = release.judge.series
    return {name: GuardView(**dict(one), unit=unit_of(name, series)) for name, one in results.items()}


@lru_cache(maxsize=64)
def _release_of(spec_json: str) -> Release | None:
    """Return how a version is released; None for one that Taxiway has not registered, or whose spec is of an older Taxiway."""
    try:
        return ModelSpec.from_json(spec_json).release
    except ValueError:
        return None
