"""What a person does to a running model: return to a version, take the model out of service, delete a version."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from operators.core.errors import RejectedError, ServiceError, ServiceRefusedError
from operators.core.rows import ManualRollbackRow, PromotedRow, ReleaseStartedRow, RetiredRow, WithdrawnRow
from operators.registry.client import CHALLENGER, CHAMPION
from operators.rollout.model_traffic import ModelTraffic
from operators.traffic.emergency import ManualRollback, move_back


class ManualMoves:
    """The moves that a person asks for, of one model."""

    def __init__(self, traffic: ModelTraffic) -> None:
        self.traffic = traffic
        self.model, self.ledger = traffic.model, traffic.ledger
        self.registry, self.agent = traffic.registry, traffic.agent

    def return_now(self, version: str | None, *, reason: str, actor: str) -> ManualRollback:
        """Move the traffic first, then the ledger and the alias. Needs no scheduler.

        :param version: where to; None: a canary loses its traffic, and without one the version before takes over
        :raises RejectedError: the version has the traffic already, or is not deployed any more
        """
        return self.write_down(move_back(self.agent, self.model, version, reason=reason, actor=actor), reason, actor)

    def write_down(self, done: ManualRollback, reason: str, actor: str) -> ManualRollback:
        """Let ledger and alias follow traffic that a person has moved back."""
        try:
            self.return_to(done.run, done.stable, reason, actor, left=done.left)
        except (RejectedError, ServiceError, ServiceRefusedError) as error:
            return replace(done, unwritten=str(error))
        return done

    def earlier(self, version: str | None) -> str:
        """Return the version to go back to: the one named, else the one that the last promotion replaced.

        :raises RejectedError: there is no such version
        """
        if version:
            return version
        route = self.agent.route(self.model)
        for row in reversed(self.ledger.rows(PromotedRow, self.model)):
            if row.previous is not None and (route is None or route.stable != row.previous):
                return row.previous
        raise RejectedError(f"{self.model} has no version before this one; name one")

    def return_to(
        self, run: str, version: str, reason: str, actor: str, *, left: str | None = None, supersede: bool = True
    ) -> str | None:
        """Send all traffic to a version that is deployed. Ends a release that is under way.

        The version that loses the traffic goes into quarantine if it was on trial or is the newer one; the one that gets the
        traffic leaves it.

        :param run: names the request; a second call with the same one changes nothing
        :param left: the version that had the traffic, where the agent has moved it already
        :param supersede: whether a release that is under way ends
        :returns: the version that had the traffic
        """
        traffic, release_id = self.traffic, self.traffic.next_id(run)
        route = self.agent.route(self.model)
        row = ReleaseStartedRow(
            kind="return",
            version=version,
            stable=left or (route.stable if route else None),
            on_trial=traffic.started(self.ledger.holder(self.model)).version,
            by=actor,
            reason=reason,
            run=run,
        )
        self.ledger.claim(self.model, release_id, row, supersede=supersede)
        left = traffic.started(release_id).stable  # of the first try: by now the route may have moved
        traffic.move(release_id, "manual_rollback", traffic.alone(version, release_id), force=True)
        self.finish_return(release_id, version, left, reason, actor)
        return left if left != version else None

    def finish_return(self, release_id: str, version: str, left: str | None, reason: str, actor: str) -> None:
        """Do what follows the traffic: the alias, the quarantine, the row."""
        quarantine = self.traffic.quarantine
        with self.ledger.holding(self.model, release_id):
            self.traffic.make_champion(version)
        quarantine.lift(version, by=actor, reason=reason, key=f"{release_id}/lifted")
        on_trial = self.traffic.started(release_id).on_trial
        if left is not None and left != version and (left == on_trial or int(left) > int(version)):
            quarantine.put(left, f"rolled back by {actor}: {reason}", key=f"{release_id}/quarantined")
            self.traffic.drop_challenger(left)
        row = ManualRollbackRow(version=version, left=left, reason=reason, actor=actor)
        self.ledger.finish(self.model, release_id, row)

    def withdraw(self, actor: str, reason: str) -> bool:
        """Take a model out of service: no route, no alias, nothing deployed. Its versions and its ledger stay.

        :returns: whether there was anything to take out
        """
        apps = [name for name in self.agent.apps() if name.rpartition("-")[0] == self.model]
        champion = self.registry.alias(self.model, CHAMPION)
        if self.agent.route(self.model) is None and not apps and champion is None:
            return False
        release_id = f"{self.model}/withdrawn/{datetime.now(UTC).isoformat()}"
        row = ReleaseStartedRow(kind="withdrawal", version=None, by=actor, reason=reason)
        self.ledger.claim(self.model, release_id, row)
        self.finish_withdrawal(release_id, actor, reason)
        return True

    def finish_withdrawal(self, release_id: str, actor: str, reason: str) -> None:
        """Do what follows the claim."""
        self.traffic.move(release_id, "withdraw", self.traffic.alone(None, release_id), force=True)
        for alias in (CHAMPION, CHALLENGER):
            self.registry.drop_alias(self.model, alias)
        for name in self.agent.apps():
            model, _, version = name.rpartition("-")
            if model == self.model:
                self.agent.retire(self.model, version)
        self.ledger.finish(self.model, release_id, WithdrawnRow(by=actor, reason=reason))

    def retire(self, run: str, version: str) -> bool:
        """Delete a version that no longer has traffic; return False if it has some again."""
        route = self.agent.route(self.model)
        if route is not None and version in (route.stable, route.canary, route.shadow):
            return False
        key = f"{self.model}/{run}/retired/{version}"
        self.ledger.append(self.model, RetiredRow(version=version), key=key)
        self.agent.retire(self.model, version)
        return True
