"""What a person does to a running model, and what releases leave to be done later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from operators.core.errors import RejectedError, ServiceError, ServiceRefusedError
from operators.registry.client import CHALLENGER, CHAMPION
from operators.rollout.model_traffic import Moves
from operators.traffic.emergency import Returned, move_back


class ByHand(Moves):
    """Return to a version, withdraw a model, delete a version."""

    def return_now(self, version: str | None, *, reason: str, actor: str) -> Returned:
        """Move the traffic first, then the ledger and the alias. Needs no scheduler.

        :param version: where to; None: a canary loses its traffic, and without one the version before takes over
        :raises RejectedError: the version has the traffic already, or is not deployed any more
        """
        return self.write_down(move_back(self.agent, self.model, version, reason=reason, actor=actor), reason, actor)

    def write_down(self, done: Returned, reason: str, actor: str) -> Returned:
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
        for entry in reversed(self.ledger.entries(self.model, kind="promoted")):
            previous = entry.payload["previous"]
            if previous is not None and (route is None or route.stable != previous):
                return str(previous)
        raise RejectedError(f"{self.model} has no version before this one; name one")

    def return_to(
        self, run: str, version: str, reason: str, actor: str, *, left: str | None = None, supersede: bool = True
    ) -> str | None:
        """Send all traffic to a version that is deployed, because a person said so. Ends a release that is under way.

        The version that is left goes into quarantine if it was on trial or is the newer one; the one that comes back leaves it.

        :param run: names the wish: the same one is fulfilled once
        :param left: the version that had the traffic, where the agent has moved it already
        :param supersede: whether a release that is under way ends
        :returns: the version that had the traffic
        """
        release_id = self.next_id(run)
        route = self.agent.route(self.model)
        left = left or (route.stable if route else None)
        said = {"version": version, "stable": left, "by": actor, "reason": reason, "kind": "return", "run": run}
        said["on_trial"] = self._started(self.ledger.holder(self.model)).get("version")
        self.ledger.claim(self.model, release_id, said, supersede=supersede)
        left = self._started(release_id)["stable"]  # after the traffic has moved, another one would be found
        self.move(release_id, "manual_rollback", self.alone(version, release_id), force=True)
        self.finish_return(release_id, version, left, reason, actor)
        return left if left != version else None

    def finish_return(self, release_id: str, version: str, left: str | None, reason: str, actor: str) -> None:
        """Do what follows the traffic: the alias, the quarantine, the row."""
        with self.ledger.holding(self.model, release_id):
            self.make_champion(version)
        self.quarantine.lift(version, by=actor, reason=reason, key=f"{release_id}/lifted")
        on_trial = self._started(release_id).get("on_trial")
        if left is not None and left != version and (left == on_trial or int(left) > int(version)):
            self.quarantine.put(left, f"rolled back by {actor}: {reason}", key=f"{release_id}/quarantined")
            self.drop_challenger(left)
        said = {"version": version, "left": left, "reason": reason, "actor": actor}
        self.ledger.finish(self.model, release_id, "manual_rollback", said)

    def _started(self, release_id: str | None) -> dict[str, Any]:
        """Return what was written when a release, or a return, began; nothing for none."""
        row = self.ledger.entry(f"{release_id}/started") if release_id else None
        return row.payload if row else {}

    def finish_promotion(self, release_id: str, version: str, previous: str | None, *, watched: bool) -> None:
        """Do what follows the traffic: the alias, then the row.

        :param watched: whether the release goes on
        """
        with self.ledger.holding(self.model, release_id):
            self.make_champion(version)
        said = {"version": version, "previous": previous}
        if watched:
            key = f"{release_id}/promoted"
            self.ledger.append(self.model, "promoted", said, key=key, release_id=release_id)
        else:
            self.ledger.finish(self.model, release_id, "promoted", said)

    def withdraw(self, actor: str, reason: str) -> bool:
        """Take a model out of service: no route, no alias, nothing deployed. Its versions and its ledger stay.

        :returns: whether there was anything to take out
        """
        apps = [name for name in self.agent.apps() if name.rpartition("-")[0] == self.model]
        champion = self.registry.alias(self.model, CHAMPION)
        if self.agent.route(self.model) is None and not apps and champion is None:
            return False
        release_id = f"{self.model}/withdrawn/{datetime.now(UTC).isoformat()}"
        self.ledger.claim(
            self.model, release_id, {"version": None, "by": actor, "reason": reason, "kind": "withdrawal"}
        )
        self.finish_withdrawal(release_id, actor, reason)
        return True

    def finish_withdrawal(self, release_id: str, actor: str, reason: str) -> None:
        """Do what follows the claim."""
        self.move(release_id, "withdraw", self.alone(None, release_id), force=True)
        for alias in (CHAMPION, CHALLENGER):
            self.registry.drop_alias(self.model, alias)
        for name in self.agent.apps():
            model, _, version = name.rpartition("-")
            if model == self.model:
                self.agent.retire(self.model, version)
        self.ledger.finish(self.model, release_id, "withdrawn", {"by": actor, "reason": reason})

    def retire(self, run: str, version: str, *, drain_s: float = 30.0) -> bool:
        """Delete a version that no longer has traffic; return False if it has some again."""
        route = self.agent.route(self.model)
        if route is not None and version in (route.stable, route.canary, route.shadow):
            return False
        self.ledger.append(self.model, "retired", {"version": version}, key=f"{self.model}/{run}/retired/{version}")
        self.agent.retire(self.model, version, drain_s=drain_s)
        return True

    def drop_orphan(self, version: str) -> None:
        """Delete what a release that was put aside had deployed, unless it has traffic or is being released again.

        What was promoted once is no orphan: the release after it may have to go back to it. `reconcile` deletes it in time.
        """
        promoted = [row.payload["version"] for row in self.ledger.entries(self.model, kind="promoted")]
        if version not in (*promoted, self._started(self.ledger.holder(self.model)).get("version")):
            self.delete_unless_used(version)
