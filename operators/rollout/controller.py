"""What a release does to the world: traffic, aliases and ledger, in an order that survives a kill at any point."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from operators.core.errors import RejectedError
from operators.core.ledger import Entry
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.core.traffic import RouteState
from operators.judge.digest import judge_digest
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.registry.client import CHALLENGER, CHAMPION, ModelVersion
from operators.rollout.manual_moves import ByHand
from operators.rollout.model_traffic import Move, route_of
from operators.rollout.reconcile.policy import PROMOTE, ROLL_BACK
from operators.traffic import routes
from operators.traffic.limits import USUAL, AnswerLimits


@dataclass(frozen=True)
class Begun:
    """A release that holds its model.

    :param stable: the version that has the traffic; None: the model has never been released
    :param superseded: the release that was put aside for it
    :param at: when it began, the first try of it
    """

    release_id: str
    stable: str | None
    superseded: str | None
    at: datetime


class Controller(ByHand):
    """The moves of a release of one model."""

    def find(self, version: str | None) -> ModelVersion:
        """Return the version to release: the one named, else the challenger.

        :raises RejectedError: there is nothing to release
        """
        if version:
            return self.registry.find(self.model, version)
        challenger = self.registry.alias(self.model, CHALLENGER)
        if challenger is None:
            raise RejectedError(f"{self.model} has no version with the alias `challenger`; name a version to release")
        return challenger

    def begin(self, run: str, version: ModelVersion, *, when_busy: Literal["wait", "supersede"] = "wait") -> Begun:
        """Claim the model for a release.

        :param run: names the Airflow run; a run that is cleared after its end begins another release
        :param when_busy: `supersede` puts another release of the model aside and drains its canary
        :raises BusyError: another release holds the model, and this one is to wait
        :raises QuarantinedError: the version, or the same model under another number, was rejected before
        :raises RejectedError: the version is the champion already, or this run was put aside
        """
        release_id = self.next_id(run)
        if self.ledger.holder(self.model) != release_id:
            self._require_news(version)
            self.quarantine.require_free(version)
        payload = {"version": version.version, "run": run, "kind": "release"}
        superseded = self.ledger.claim(self.model, release_id, payload, supersede=when_busy == "supersede")
        # Looked at again: until the claim, the release before may have promoted its version.
        left = self.agent.route(self.model)
        stable = left.stable if left else None
        begun = self.move(release_id, "begin", self.alone(stable, release_id), force=True)
        with self.ledger.holding(self.model, release_id):
            self.follow(begun.route.stable)  # the release before may have been killed between traffic and alias
        if begun.route.stable == version.version:
            said = {"did": "follow", "stable": version.version, "why": "there was nothing to release"}
            self.ledger.finish(self.model, release_id, "reconciled", said)
            raise RejectedError(f"version {version.version} of {self.model} has all the traffic already")
        if left is not None:
            self._clear(left, keep=version.version)
        return Begun(release_id, begun.route.stable, superseded, begun.at)

    def _require_news(self, version: ModelVersion) -> None:
        route = self.agent.route(self.model)
        champion = self.registry.alias(self.model, CHAMPION)
        if route is not None and route.stable == version.version and champion and champion.version == route.stable:
            raise RejectedError(f"version {route.stable} of {self.model} has all the traffic already")

    def _clear(self, left: RouteState, *, keep: str) -> None:
        """Delete what the release before has left without traffic, but for the old version that a watch has kept."""
        for version in {left.shadow, None if left.from_top else left.canary} - {None, left.stable, keep}:
            self.delete_unless_used(str(version))

    def start_shadow(
        self, release_id: str, release: Release, *, stable: str, version: str, limits: AnswerLimits = USUAL
    ) -> Move:
        """Copy requests to the version, whose answers nobody sees."""
        route = routes.shadow(self.model, release, stable=stable, version=version, limits=limits, holder=release_id)
        return self.move(release_id, "shadow", route)

    def set_route(
        self,
        release_id: str,
        step: str,
        release: Release,
        *,
        stable: str,
        version: str,
        weight_bp: int,
        limits: AnswerLimits = USUAL,
    ) -> Move:
        """Give the canary a share of the traffic.

        :param step: names the step; one that runs again makes the move of its first try, and writes no other row
        :param weight_bp: basis points
        :param limits: of this step; those of the first try stay in force
        :returns: the route in force, and since when
        :raises RejectedError: the release no longer holds the model
        """
        route = routes.canary(
            self.model,
            release,
            stable=stable,
            version=version,
            weight_bp=weight_bp,
            limits=limits,
            holder=release_id,
        )
        return self.move(release_id, step, route)

    def weights_bp(self, release_id: str) -> tuple[int, ...]:
        """Return the weights that the release's canary has had, oldest first, each once. Without the control's."""
        made = [route_of(entry) for entry in self.moves_of(release_id)]
        return tuple(dict.fromkeys(route.weight_bp for route in made if route.weight_bp and not route.from_top))

    def record_look(self, release_id: str, step: str, evidence: Evidence, *, n: int | None = None) -> int:
        """Keep what the judge saw; return the number of the look in its step.

        :param n: number of the look; None: the next
        """
        return self.ledger.record_look(self.model, release_id, step, evidence.model_dump(mode="json"), n=n)

    def record_verdict(
        self,
        release_id: str,
        step: str,
        *,
        policy: Judge,
        evidence: Evidence,
        judgement: Judgement,
        elapsed_s: float,
        bake_s: float = 0.0,
        min_requests: int | None = None,
        harm_weight: float = 1.0,
        blind: bool = False,
    ) -> Entry:
        """Write a verdict down with all that it rests on: `verify` makes it again from this row alone.

        The same evidence is the same verdict and the same row.

        :param blind: the judge was not asked, because nothing could be seen; only Inconclusive can come of it
        :raises RejectedError: the release no longer holds the model
        """
        from operators.core.ledger_schema import json_digest

        seen = evidence.model_dump(mode="json")
        payload: dict[str, Any] = {
            "step": step,
            "policy": policy.model_dump(mode="json", by_alias=True),
            "evidence": seen,
            "elapsed_s": elapsed_s,
            "bake_s": bake_s,
            "min_requests": min_requests,
            "harm_weight": harm_weight,
            "judgement": judgement.model_dump(mode="json"),
            "judge": judge_digest(),
            "blind": blind,
        }
        key = f"{release_id}/{step}/{json_digest([seen, elapsed_s])[:20]}/verdict"
        return self.ledger.append(self.model, "verdict", payload, key=key, release_id=release_id)

    def verdicts(self, release_id: str) -> list[Entry]:
        """Return the verdicts of a release, oldest first."""
        return self.ledger.entries(self.model, release_id=release_id, kind="verdict")

    def approve(
        self, release_id: str, step: str, *, answer: Literal["go_on", "roll_back"], by: str, note: str = ""
    ) -> Entry:
        """Write down what a person, or the time-out in place of one, has decided. The first answer stands.

        :param by: the user, or `timeout`
        """
        payload = {"step": step, "answer": answer, "by": by, "note": note}
        key = f"{release_id}/{step}/approval"
        return self.ledger.append(self.model, "approval", payload, key=key, release_id=release_id)

    def approval(self, release_id: str, step: str) -> dict[str, Any] | None:
        """Return what was decided at a step, or None."""
        entry = self.ledger.entry(f"{release_id}/{step}/approval")
        return entry.payload if entry else None

    def promote(
        self, release_id: str, version: str, previous: str | None, spec: ModelSpec, *, limits: AnswerLimits = USUAL
    ) -> bool:
        """Make a version stable: the traffic first, then the alias, then the row.

        With `watch` in the spec the release goes on: the old version keeps the last 1 % as a control until `end_watch` or
        `roll_back`. Without, this is its end.

        :param previous: the version that is replaced; None in a first release, which has nothing to watch by
        :returns: whether the release goes on
        """
        ended = self.ledger.end(release_id)
        if ended is not None and ended.kind == "promoted":
            return False
        # Kept with the version, so that it can be deployed again whoever registered it.
        self.registry.tag(self.model, version, "taxiway.spec", spec.to_json())
        release = spec.release
        route = routes.only(self.model, version, unit=release.unit, holder=release_id)
        if watched := release.watch_s is not None and previous is not None:
            route = routes.control(
                self.model, release, stable=version, previous=str(previous), limits=limits, holder=release_id
            )
        self.move(release_id, PROMOTE, route)
        self.finish_promotion(release_id, version, previous, watched=watched)
        return watched

    def watch(self, release_id: str) -> Move:
        """Make the promotion's route again, where a watch goes on after a kill: the control's lease may have ended.

        :raises RejectedError: the release was not promoted, or no longer holds the model
        """
        made = [entry for entry in self.moves_of(release_id) if entry.payload["step"] == PROMOTE]
        if not made:
            raise RejectedError(f"release {release_id} was not promoted: there is nothing to watch")
        return self.move(release_id, PROMOTE, route_of(made[-1]))

    def end_watch(self, release_id: str, version: str, release: Release) -> None:
        """End a watch that has found nothing: the version has everything, and the release is over."""
        ended = self.ledger.end(release_id)
        if ended is not None and ended.kind == "watch_ended":
            return
        self.move(release_id, "watch_end", routes.only(self.model, version, unit=release.unit, holder=release_id))
        self.ledger.finish(self.model, release_id, "watch_ended", {"version": version})

    def roll_back(
        self,
        release_id: str,
        version: str,
        stable: str | None,
        reason: str,
        *,
        rejected: bool | None = None,
        drain_s: float = 30.0,
    ) -> None:
        """Take a version out of the traffic and out of the running; after a promotion, go back to the one before.

        :param stable: the version that has the traffic afterwards; None if the model has never been released
        :param rejected: whether the version goes into quarantine; None: if a verdict was Failed, or it was promoted.
            Inconclusive is no rejection
        :raises RejectedError: the release no longer holds the model
        """
        ended = self.ledger.end(release_id)
        if ended is not None and ended.kind == "rolled_back":
            return
        back = self.take_out(release_id, version, stable)
        stable = back.route.stable
        promoted = self.ledger.entry(f"{release_id}/promoted") is not None
        if rejected or (rejected is None and (promoted or self._failed(release_id))):
            key = f"{release_id}/quarantined"
            self.quarantine.put(version, reason, key=key, release_id=release_id)
        with self.ledger.holding(self.model, release_id):
            self.follow(stable, leaving=version)
            self.registry.tag(self.model, version, "taxiway.verdict", "rolled_back")
            self.drop_challenger(version)
        self.agent.retire(self.model, version, drain_s=drain_s)
        said = {"version": version, "stable": stable, "reason": reason, "promoted": promoted}
        self.ledger.finish(self.model, release_id, "rolled_back", said)

    def take_out(self, release_id: str, version: str, stable: str | None) -> Move:
        """End a version's traffic now. It is the first move of `roll_back`, which finds it made and does the rest.

        :param stable: the version that has the traffic afterwards; None if the model has never been released
        :raises RejectedError: the release no longer holds the model
        """
        now = self.agent.route(self.model)
        if now is not None and now.stable not in (version, stable):
            stable = now.stable  # a person has sent the traffic elsewhere meanwhile, by the agent alone: that stands
        # By force: the agent may have taken the route from the release, and the ledger has not.
        return self.move(release_id, ROLL_BACK, self.alone(stable, release_id), force=True)

    def _failed(self, release_id: str) -> bool:
        said = [entry.payload["judgement"]["outcome"] for entry in self.verdicts(release_id)]
        return Outcome.FAILED in said

    def why(self, release_id: str, *, otherwise: str = "a task of the release failed") -> str:
        """Return who decided to go back, or the last verdict that was not Successful, for the rollback's row.

        :param otherwise: the answer if there is neither
        """
        answers = self.ledger.entries(self.model, release_id=release_id, kind="approval")
        if answers and answers[-1].payload["answer"] == "roll_back":
            return "{step}: {by} decided to roll back".format_map(answers[-1].payload)
        said = [(entry.payload["step"], entry.payload["judgement"]) for entry in self.verdicts(release_id)]
        bad = [(step, found) for step, found in said if found["outcome"] != Outcome.SUCCESSFUL]
        if not bad:
            return otherwise
        step, found = bad[-1]
        return f"{step}: {found['outcome']}: {found['reason']}"
