"""The moves of a release: traffic, aliases and ledger, in an order that survives a kill at any point."""

from __future__ import annotations

from typing import Literal

from operators.core import rows
from operators.core.errors import RejectedError
from operators.core.ledger_entry import Entry, json_digest
from operators.core.row_text import in_words
from operators.core.spec import ModelSpec
from operators.core.spec_release import Release
from operators.core.traffic import RouteState
from operators.judge.evidence import Evidence, Outcome
from operators.registry.client import CHALLENGER, CHAMPION, ModelVersion
from operators.rollout.model_traffic import Begun, ModelTraffic, Move
from operators.rollout.reconcile.policy import PROMOTE, ROLL_BACK
from operators.traffic import routes
from operators.traffic.limits import USUAL, AnswerLimits


class ReleaseMoves:
    """The moves of a release of one model."""

    def __init__(self, traffic: ModelTraffic) -> None:
        self.traffic = traffic
        self.model, self.ledger = traffic.model, traffic.ledger
        self.registry, self.agent = traffic.registry, traffic.agent

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
        :param when_busy: `supersede` ends another release of the model and takes its canary out
        :raises BusyError: another release holds the model, and this one has to wait
        :raises QuarantinedError: the version, or the same model under another number, was rejected before
        :raises RejectedError: the version is the champion already, or another release has ended this run's
        """
        traffic, release_id = self.traffic, self.traffic.next_id(run)
        if self.ledger.holder(self.model) != release_id:
            self._require_other_champion(version)
            traffic.quarantine.require_free(version)
        row = rows.ReleaseStartedRow(kind="release", version=version.version, run=run)
        self.ledger.claim(self.model, release_id, row, supersede=when_busy == "supersede")
        # Read after the claim: until then, the release before may have promoted its version.
        left = self.agent.route(self.model)
        stable = left.stable if left else None
        begun = traffic.move(release_id, "begin", traffic.alone(stable, release_id), force=True)
        with self.ledger.holding(self.model, release_id):
            traffic.follow(begun.route.stable)  # the release before may have been killed between traffic and alias
        if begun.route.stable == version.version:
            nothing = rows.ReconciledRow(did="follow", stable=version.version, why="there was nothing to release")
            self.ledger.finish(self.model, release_id, nothing)
            raise RejectedError(f"version {version.version} of {self.model} has all the traffic already")
        if left is not None:
            self._clear(left, keep=version.version)
        return Begun(release_id, begun.route.stable)

    def _require_other_champion(self, version: ModelVersion) -> None:
        route = self.agent.route(self.model)
        champion = self.registry.alias(self.model, CHAMPION)
        if route is not None and route.stable == version.version and champion and champion.version == route.stable:
            raise RejectedError(f"version {route.stable} of {self.model} has all the traffic already")

    def _clear(self, left: RouteState, *, keep: str) -> None:
        """Delete the versions that the release before was trying, but not the old version that a watch kept."""
        for version in {left.shadow, None if left.from_top else left.canary} - {None, left.stable, keep}:
            self.traffic.delete_unless_used(str(version))

    def start_shadow(
        self, release_id: str, release: Release, *, stable: str, version: str, limits: AnswerLimits = USUAL
    ) -> Move:
        """Send copies of requests to the version; callers do not get its answers."""
        route = routes.shadow(self.model, release, stable=stable, version=version, limits=limits, holder=release_id)
        return self.traffic.move(release_id, "shadow", route)

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

        :param step: names the step; one that runs again repeats its recorded move
        :param weight_bp: basis points
        :param limits: of this step; those of the first try stay in force
        :returns: the route in force, and since when
        :raises RejectedError: the release no longer holds the model
        """
        route = routes.canary(
            self.model, release, stable=stable, version=version, weight_bp=weight_bp, limits=limits, holder=release_id
        )
        return self.traffic.move(release_id, step, route)

    def record_look(self, release_id: str, step: str, evidence: Evidence) -> int:
        """Keep the evidence of a look; return the number of the look in its step."""
        return self.ledger.record_look(self.model, release_id, step, evidence.model_dump(mode="json"))

    def record_verdict(self, release_id: str, row: rows.VerdictRow) -> Entry:
        """Write a verdict; a second call with the same evidence returns the row of the first.

        :raises RejectedError: the release no longer holds the model
        """
        key = f"{release_id}/{row.step}/{json_digest([row.evidence, row.elapsed_s])[:20]}/verdict"
        return self.ledger.append(self.model, row, key=key, release_id=release_id)

    def verdicts(self, release_id: str) -> list[rows.VerdictRow]:
        """Return the verdicts of a release, oldest first."""
        return self.ledger.rows(rows.VerdictRow, self.model, release_id=release_id)

    def approve(self, release_id: str, step: str, *, answer: Literal["go_on", "roll_back"], by: str) -> Entry:
        """Write down what a person, or the time-out in place of one, has decided. The first answer stands.

        :param by: the user, or `timeout`
        """
        row = rows.ApprovalRow(step=step, answer=answer, by=by, note="")
        return self.ledger.append(self.model, row, key=f"{release_id}/{step}/approval", release_id=release_id)

    def approval(self, release_id: str, step: str) -> rows.ApprovalRow | None:
        """Return what was decided at a step, or None."""
        entry = self.ledger.entry(f"{release_id}/{step}/approval")
        return rows.ApprovalRow.of(entry) if entry else None

    def promote(
        self, release_id: str, version: str, previous: str | None, spec: ModelSpec, *, limits: AnswerLimits = USUAL
    ) -> bool:
        """Make a version stable: the traffic first, then the alias, then the row.

        With `watch` in the spec the release goes on: the old version keeps 1 % as a control until `end_watch` or `roll_back`.
        Without it, the release ends here.

        :param previous: the version that is replaced; None in a first release, which has no control to compare with
        :returns: whether the release goes on
        """
        if self.ledger.ended_with(release_id, rows.PromotedRow):
            return False
        # Kept with the version, so that it can be deployed again whoever registered it.
        self.registry.tag(self.model, version, "taxiway.spec", spec.to_json())
        release = spec.release
        route = routes.only(self.model, version, unit=release.unit, holder=release_id)
        if watched := release.watch_s is not None and previous is not None:
            route = routes.control(
                self.model, release, stable=version, previous=str(previous), limits=limits, holder=release_id
            )
        self.traffic.move(release_id, PROMOTE, route)
        self.finish_promotion(release_id, version, previous, watched=watched)
        return watched

    def finish_promotion(self, release_id: str, version: str, previous: str | None, *, watched: bool) -> None:
        """Do what follows the traffic: the alias, then the row.

        :param watched: whether the release goes on
        """
        with self.ledger.holding(self.model, release_id):
            self.traffic.make_champion(version)
        row = rows.PromotedRow(version=version, previous=previous)
        if watched:
            self.ledger.append(self.model, row, key=f"{release_id}/promoted", release_id=release_id)
        else:
            self.ledger.finish(self.model, release_id, row)

    def watch(self, release_id: str) -> Move:
        """Set the promotion's route again when a watch goes on after a kill: the control's lease may have ended.

        :raises RejectedError: the release was not promoted, or no longer holds the model
        """
        routes_set = [move.route for move in self.traffic.moves_of(release_id) if move.step == PROMOTE]
        if not routes_set:
            raise RejectedError(f"release {release_id} was not promoted: there is nothing to watch")
        return self.traffic.move(release_id, PROMOTE, routes_set[-1])

    def end_watch(self, release_id: str, version: str, release: Release) -> None:
        """End a watch without a failure: the version gets all traffic, and the release ends."""
        if self.ledger.ended_with(release_id, rows.WatchEndedRow):
            return
        route = routes.only(self.model, version, unit=release.unit, holder=release_id)
        self.traffic.move(release_id, "watch_end", route)
        self.ledger.finish(self.model, release_id, rows.WatchEndedRow(version=version))

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
        """Take a version's traffic, aliases and replicas; after a promotion, go back to the version before.

        :param stable: the version that has the traffic afterwards; None if the model has never been released
        :param rejected: whether the version goes into quarantine; None: if a verdict was Failed, or it was promoted.
            Inconclusive is no rejection
        :raises RejectedError: the release no longer holds the model
        """
        if self.ledger.ended_with(release_id, rows.RolledBackRow):
            return
        stable = self.take_out(release_id, version, stable).route.stable
        promoted = self.ledger.entry(f"{release_id}/promoted") is not None
        if rejected is None:
            rejected = promoted or any(row.outcome == Outcome.FAILED for row in self.verdicts(release_id))
        if rejected:
            key = f"{release_id}/quarantined"
            self.traffic.quarantine.put(version, reason, key=key, release_id=release_id)
        with self.ledger.holding(self.model, release_id):
            self.traffic.follow(stable, leaving=version)
            self.registry.tag(self.model, version, "taxiway.verdict", "rolled_back")
            self.traffic.drop_challenger(version)
        self.agent.retire(self.model, version, drain_s=drain_s)
        row = rows.RolledBackRow(version=version, stable=stable, reason=reason, promoted=promoted)
        self.ledger.finish(self.model, release_id, row)

    def take_out(self, release_id: str, version: str, stable: str | None) -> Move:
        """End a version's traffic now. It is the first move of `roll_back`, which then repeats it and does the rest.

        :param stable: the version that has the traffic afterwards; None if the model has never been released
        :raises RejectedError: the release no longer holds the model
        """
        now = self.agent.route(self.model)
        if now is not None and now.stable not in (version, stable):
            stable = now.stable  # meanwhile a person has sent the traffic elsewhere by the agent alone: that stands
        # By force: the agent may have taken the route from the release, and the ledger has not.
        return self.traffic.move(release_id, ROLL_BACK, self.traffic.alone(stable, release_id), force=True)

    def drop_orphan(self, version: str) -> None:
        """Delete the version of a release that another one has ended, unless it has traffic or is being released again.

        A version that was once promoted stays: the release after it may have to go back to it. `reconcile` deletes it later.
        """
        promoted = [row.version for row in self.ledger.rows(rows.PromotedRow, self.model)]
        if version not in (*promoted, self.traffic.started(self.ledger.holder(self.model)).version):
            self.traffic.delete_unless_used(version)

    def why(self, release_id: str, *, otherwise: str = "a task of the release failed") -> str:
        """Return the reason of a rollback: the person who decided it, or the last verdict that was not Successful.

        :param otherwise: the answer if there is neither
        """
        answers = self.ledger.rows(rows.ApprovalRow, self.model, release_id=release_id)
        if answers and answers[-1].answer == "roll_back":
            return in_words(answers[-1])
        bad = [verdict for verdict in self.verdicts(release_id) if verdict.outcome != Outcome.SUCCESSFUL]
        return in_words(bad[-1]) if bad else otherwise
