"""What a release does to the world: traffic, aliases and ledger, in an order that survives a kill at any point.

Each move is written to the ledger before it is made. A step that runs again finds its row, and makes the move again: setting
a route or an alias twice changes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.core.ledger import Ledger
from operators.core.settings import Settings
from operators.registry.client import CHALLENGER, CHAMPION, ModelVersion, Registry
from operators.rollout.client import Agent, Route
from operators.rollout.policy import Outcome, Verdict


class Controller:
    """The moves of a release of one model."""

    def __init__(self, model: str, settings: Settings | None = None) -> None:
        settings = settings or Settings.load()
        self.model = model
        self.ledger = Ledger(settings.ledger_url)
        self.registry = Registry(settings.mlflow_url)
        self.agent = Agent()

    def find(self, version: str | None) -> ModelVersion:
        """Return the version to release: the one named, else the challenger.

        :raises RejectedError: there is nothing to release
        """
        if version:
            return self.registry.version(self.model, version)
        challenger = self.registry.alias(self.model, CHALLENGER)
        if challenger is None:
            raise RejectedError(f"{self.model} has no version with the alias `challenger`; name a version to release")
        return challenger

    def begin(self, run: str, version: ModelVersion) -> tuple[str, str | None]:
        """Claim the model for a release; return the release's id and the version that is stable now.

        :param run: names the Airflow run; a run that is cleared after its end begins another release
        :raises RejectedError: the version is the champion already
        """
        release_id = self._next_id(run)
        route = self.agent.route(self.model)
        stable = route.stable if route else None
        champion = self.registry.alias(self.model, CHAMPION)
        if stable == version.version and champion is not None and champion.version == stable:
            raise RejectedError(f"version {stable} of {self.model} has all the traffic already")
        self.ledger.claim(self.model, release_id, {"version": version.version, "stable": stable})
        if route is not None and route.canary is not None:  # left by a release that was put aside
            self.set_weight(release_id, "begin", stable=stable, canary=None, weight_bp=0)
            if route.canary != version.version:
                self.agent.retire(self.model, route.canary)
        return release_id, stable

    def set_weight(
        self, release_id: str, step: str, *, stable: str | None, canary: str | None, weight_bp: int, attempt: int = 1
    ) -> None:
        """Give the canary a share of the traffic.

        :param step: name of the step, part of the idempotency key
        :param weight_bp: basis points
        :param attempt: of the step: one that begins anew is another row
        :raises RejectedError: the release no longer holds the model
        """
        payload = {"stable": stable, "canary": canary, "weight_bp": weight_bp, "step": step}
        key = f"{release_id}/{step}/{attempt}/weight"
        self.ledger.append(self.model, "weight_set", payload, key=key, release_id=release_id)
        with self.ledger.holding(self.model, release_id):
            if stable is None:
                self.agent.remove_route(self.model)
            else:
                self.agent.set_route(Route(model=self.model, stable=stable, canary=canary, weight_bp=weight_bp))

    def record_verdict(self, release_id: str, step: str, attempt: int, verdict: Verdict) -> None:
        """Write a step's verdict and the numbers that it rests on."""
        payload = {"step": step, **verdict.model_dump()}
        key = f"{release_id}/{step}/{attempt}/verdict"
        self.ledger.append(self.model, "verdict", payload, key=key, release_id=release_id)

    def promote(self, release_id: str, version: str, previous: str | None, spec_json: str) -> None:
        """Make a version stable: the traffic first, then the alias, then the end of the release.

        Killed in between, the task runs again; until then the ledger shows a promotion without its end.

        :param spec_json: kept with the version, so that it can be deployed again whoever registered it
        """
        self.registry.tag(self.model, version, "taxiway.spec", spec_json)
        self.set_weight(release_id, "promote", stable=version, canary=None, weight_bp=0)
        with self.ledger.holding(self.model, release_id):
            self._make_champion(version)
        self.ledger.finish(self.model, release_id, "promoted", {"version": version, "previous": previous})

    def roll_back(self, release_id: str, version: str, stable: str | None, reason: str) -> None:
        """Take a canary out of the traffic and out of the running.

        :param stable: the version that keeps the traffic; None if the model has never been released
        :raises RejectedError: the release no longer holds the model
        """
        self.set_weight(release_id, "rollback", stable=stable, canary=None, weight_bp=0)
        with self.ledger.holding(self.model, release_id):
            champion = self.registry.alias(self.model, CHAMPION)
            if champion is not None and champion.version == version:
                if stable is None:
                    self.registry.drop_alias(self.model, CHAMPION)
                else:
                    self.registry.set_alias(self.model, CHAMPION, stable)
            self.registry.tag(self.model, version, "taxiway.verdict", "rolled_back")
            self._drop_challenger(version)
        self.agent.retire(self.model, version)
        said = {"version": version, "stable": stable, "reason": reason}
        self.ledger.finish(self.model, release_id, "rolled_back", said)

    def drop_orphan(self, version: str) -> None:
        """Delete what a release that was put aside had deployed, unless it has traffic by now."""
        with suppress(ServiceRefusedError):  # 409: it has
            self.agent.retire(self.model, version)

    def why(self, release_id: str) -> str:
        """Return the reason of the last verdict that was not Successful, for the rollback's row."""
        verdicts = self.ledger.entries(self.model, release_id=release_id, kind="verdict")
        bad = [e.payload for e in verdicts if e.payload["outcome"] != Outcome.SUCCESSFUL]
        return (
            f"{bad[-1]['step']}: {bad[-1]['outcome']}: {bad[-1]['reason']}" if bad else "a task of the release failed"
        )

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

    def return_to(self, run: str, version: str, reason: str, actor: str) -> str | None:
        """Send all traffic to a version that is deployed, because a person said so. Ends a release that is under way.

        :return: the version that had the traffic
        """
        route = self.agent.route(self.model)
        left = route.stable if route else None
        release_id = self._next_id(run)
        self.ledger.claim(self.model, release_id, {"version": version, "stable": left, "by": actor, "reason": reason})
        self.set_weight(release_id, "manual_rollback", stable=version, canary=None, weight_bp=0)
        with self.ledger.holding(self.model, release_id):
            self._make_champion(version)
        said = {"version": version, "left": left, "reason": reason, "actor": actor}
        self.ledger.finish(self.model, release_id, "manual_rollback", said)
        return left if left != version else None

    def _next_id(self, run: str) -> str:
        """Return the id of a run's release: the one that is under way, or the next.

        :raises RejectedError: a newer release has put this run's aside
        """
        prefix = f"{self.model}/{run}#"
        ended = [e for e in self.ledger.entries(self.model) if e.key.startswith(prefix) and e.key.endswith("/end")]
        if ended and ended[-1].kind == "abandoned":
            raise RejectedError(f"run {run} was put aside by {ended[-1].payload['by']}; start a new run")
        return f"{prefix}{len(ended) + 1}"

    def withdraw(self, actor: str, reason: str) -> bool:
        """Take a model out of service: no route, no alias, nothing deployed. Its versions and its ledger stay.

        :return: whether there was anything to take out
        """
        route = self.agent.route(self.model)
        apps = [name for name in self.agent.apps() if name.rpartition("-")[0] == self.model]
        champion = self.registry.alias(self.model, CHAMPION)
        if route is None and not apps and champion is None:
            return False
        key = f"{self.model}/withdrawn/{datetime.now(UTC).isoformat()}"
        self.ledger.claim(self.model, key, {"by": actor, "reason": reason})
        self.agent.remove_route(self.model)
        for alias in (CHAMPION, CHALLENGER):
            self.registry.drop_alias(self.model, alias)
        for name in apps:
            self.agent.retire(self.model, name.rpartition("-")[2])
        self.ledger.finish(self.model, key, "withdrawn", {"by": actor, "reason": reason})
        return True

    def retire(self, run: str, version: str) -> bool:
        """Delete a version that no longer has traffic; return False if it has some again."""
        route = self.agent.route(self.model)
        if route is not None and version in (route.stable, route.canary):
            return False
        self.ledger.append(self.model, "retired", {"version": version}, key=f"{self.model}/{run}/retired/{version}")
        self.agent.retire(self.model, version)
        return True

    def _make_champion(self, version: str) -> None:
        self.registry.set_alias(self.model, CHAMPION, version)
        self._drop_challenger(version)

    def _drop_challenger(self, version: str) -> None:
        challenger = self.registry.alias(self.model, CHALLENGER)
        if challenger is not None and challenger.version == version:
            self.registry.drop_alias(self.model, CHALLENGER)
