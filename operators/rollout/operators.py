"""The tasks of a release without traffic, and of its end. Thin: `ReleaseMoves` acts, triggers wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger, TimeDeltaTrigger
from airflow.sdk import BaseOperator, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.core.errors import BusyError, ConfigurationError, RejectedError, ServiceError
from operators.core.settings import Settings
from operators.core.spec import ModelSpec, prediction_spec
from operators.core.storage import Storage
from operators.registry.client import ModelVersion
from operators.rollout.freeze import frozen_until
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.notifiers import tell
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.smoke import smoke_test
from operators.rollout.triggers import DeployTrigger
from operators.traffic.limits import USUAL, AnswerLimits

DEPLOY_TIMEOUT_S = 600.0
_BUSY_POLL_S = 10.0
SMOKE_TEST, REFUSED_KEY = "smoke_test", "refused"
RETRIES = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            # A release that another one has ended must not try for minutes to get its model back.
            exception=[ConfigurationError, RejectedError],
            action=RetryAction.FAIL,
            reason="another try cannot help",
        )
    ]
)
"""What the tasks of a release have as ``retry_policy``, unless they are given another."""


def with_retries(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return an operator's arguments with `RETRIES`, unless they or its ``default_args`` name a policy."""
    given = "retry_policy" in kwargs or "retry_policy" in (kwargs.get("default_args") or {})
    return kwargs if given else {**kwargs, "retry_policy": RETRIES}


def release_moves_of(model: str) -> ReleaseMoves:
    """Return the moves of a model's releases."""
    return ReleaseMoves(ModelTraffic(model))


def manual_moves_of(model: str) -> ManualMoves:
    """Return what a person may do to a model."""
    return ManualMoves(ModelTraffic(model))


class ReleaseOperator(BaseOperator):
    """Base of the tasks of a release.

    :param spec: spec of the model
    :param release: what `BeginReleaseOperator` returned (templated)
    """

    template_fields: Sequence[str] = ("release",)

    def __init__(self, *, spec: ModelSpec, release: Any, **kwargs: Any) -> None:
        super().__init__(**with_retries(kwargs))
        self.spec = spec
        self.release = release

    def moves(self) -> ReleaseMoves:
        """Return the moves of this model's release."""
        return release_moves_of(self.spec.name)


class BeginReleaseOperator(BaseOperator):
    """Choose the version to release, and claim the model for it. Waits for the end of a freeze and of another
    release.

    :param spec: spec of the model
    :param version: number of the version in the registry; empty for the challenger (templated)
    :returns: ``release_id``, ``version``, ``model_uri``, ``stable`` (None for the first release), ``smoke_keys``,
        ``began_at``
    :raises AirflowFailException: the version does not exist or is in quarantine; a retry cannot help
    """

    template_fields: Sequence[str] = ("version",)

    def __init__(self, *, spec: ModelSpec, version: str, **kwargs: Any) -> None:
        super().__init__(**with_retries(kwargs))
        self.spec = spec
        self.version = version

    def execute(self, context: Any, event: Any = None) -> dict[str, Any]:
        """Choose the version and claim the model, or wait until that is possible.

        :param event: of a wait that has ended; whether the release may begin is checked again
        """
        frozen = frozen_until(self.spec.release.freeze, datetime.now(UTC))
        if frozen is not None:
            text = f"no release begins until {frozen[0].isoformat(timespec='minutes')}: {frozen[1] or 'releases are frozen'}"
            tell(self.spec, "pause", text, context)
            self.defer(trigger=DateTimeTrigger(moment=frozen[0]), method_name="execute")
        moves = release_moves_of(self.spec.name)
        version = self._find(moves, context)
        try:
            begun = moves.begin(context["run_id"], version, when_busy=self.spec.release.when_busy)
        except BusyError as error:
            self.log.info("%s; waiting", error)
            self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=_BUSY_POLL_S)), method_name="execute")
        except RejectedError as error:
            raise AirflowFailException(str(error)) from error
        stable = begun.stable
        both = [version] if stable is None else [version, moves.registry.version(self.spec.name, stable)]
        keys = [one.tags["taxiway.smoke_key"] for one in both if "taxiway.smoke_key" in one.tags]
        over = f"version {stable} has the traffic" if stable else "no version has traffic yet"
        text = f"release {begun.release_id} of version {version.version} begins; {over}"
        self.log.info(text)
        tell(self.spec, "start", text, context, release_id=begun.release_id, version=version.version, stable=stable)
        return {
            "release_id": begun.release_id,
            "version": version.version,
            "model_uri": version.uri,
            "stable": stable,
            "smoke_keys": keys,
            "began_at": time.time(),
        }

    def _find(self, moves: ReleaseMoves, context: Any) -> ModelVersion:
        try:
            return moves.find(str(self.version) or None)
        except RejectedError as error:
            if not self.version and context.get("triggering_asset_events"):
                # Several events may start several runs; the first one has released the challenger.
                raise AirflowSkipException(str(error)) from error
            raise AirflowFailException(str(error)) from error


def require_running(version: str, event: Mapping[str, str]) -> None:
    """Do nothing if a deployment has succeeded.

    :raises AirflowFailException: the version cannot run; a retry cannot help
    :raises ServiceError: the agent or Ray did not answer; a retry asks again
    """
    if event["status"] == "RUNNING":
        return
    problem = f"version {version} is {event['status']}: {event['message']}"
    raise AirflowFailException(problem) if event["status"] == "DEPLOY_FAILED" else ServiceError(problem)


class DeployOperator(ReleaseOperator):
    """Deploy the version as a Ray Serve application of its own, without traffic, and wait until it runs.

    :returns: the status of the application
    :raises AirflowFailException: the version cannot run; a retry cannot help
    :raises ServiceError: the agent or Ray was away; a retry can help
    """

    def execute(self, context: Any) -> None:
        """Start the deployment and wait."""
        version = self.release["version"]
        self.moves().agent.deploy(self.spec, version, self.release["model_uri"])
        deadline = time.time() + DEPLOY_TIMEOUT_S
        self.defer(
            trigger=DeployTrigger(model=self.spec.name, version=version, deadline=deadline), method_name="resume"
        )

    def resume(self, context: Any, event: Mapping[str, str]) -> str:
        """Fail the task if the version does not run."""
        require_running(self.release["version"], event)
        return event["status"]


class SmokeTestOperator(ReleaseOperator):
    """Send real rows straight to the new version, before any caller meets it.

    :returns: for each request the rows sent, and the smallest and the largest answer
    :raises AirflowFailException: an answer is not what a caller may expect; the version goes into quarantine
    """

    def execute(self, context: Any) -> list[dict[str, Any]]:
        """Send all rows at once, some rows one by one, and a wrong request, which must be refused."""
        spec, settings = prediction_spec(self.spec), Settings.load()
        storage = Storage(settings.storage_url)
        if not self.release["smoke_keys"]:
            raise AirflowFailException(
                f"version {self.release['version']} has no tag taxiway.smoke_key, and stable has none either: "
                "there are no rows to test it with"
            )
        # Stable's rows too: the new version must understand what callers send today.
        bodies = [storage.get_bytes(key) for key in dict.fromkeys(self.release["smoke_keys"])]
        try:
            return [smoke_test(settings.serve_url, spec, self.release["version"], body) for body in bodies]
        except RejectedError as error:
            context["ti"].xcom_push(key=REFUSED_KEY, value=str(error))
            raise AirflowFailException(str(error)) from error


class PromoteOperator(ReleaseOperator):
    """Give the new version all traffic and the alias ``champion``.

    :returns: ``champion``, and ``previous``: the version before, None after a first release
    """

    def execute(self, context: Any) -> dict[str, Any]:
        """Move the traffic, then the alias, then notify."""
        moves, release = self.moves(), self.release
        limits = [AnswerLimits.of(move.route) for move in moves.traffic.moves_of(release["release_id"])]
        version, stable = release["version"], release["stable"]
        moves.promote(release["release_id"], version, stable, self.spec, limits=limits[-1] if limits else USUAL)
        text = f"version {version} has all traffic" + (f" in place of version {stable}" if stable else "")
        tell(self.spec, "promoted", text, context, release_id=release["release_id"], version=version, stable=stable)
        return {"champion": version, "previous": stable}


class RollBackOperator(ReleaseOperator):
    """Give the stable version all traffic again, if any task of the release has failed.

    :returns: the reason
    :raises AirflowSkipException: there is nothing to roll back
    """

    def execute(self, context: Any) -> str:
        """Move the traffic, record why, and notify."""
        if not self.release:
            raise AirflowSkipException("the release never began: there is nothing to roll back")
        moves, release_id = self.moves(), self.release["release_id"]
        version, stable = self.release["version"], self.release["stable"]
        # A version that the smoke test refused is rejected, like one that the judge failed.
        refused = context["ti"].xcom_pull(task_ids=SMOKE_TEST, key=REFUSED_KEY)
        reason = f"{SMOKE_TEST}: {refused}" if refused else moves.why(release_id)
        try:
            moves.roll_back(
                release_id,
                version,
                stable,
                reason,
                rejected=True if refused else None,
                drain_s=self.spec.release.drain_s,
            )
        except RejectedError as error:
            moves.drop_orphan(version)
            raise AirflowSkipException(str(error)) from error
        tell(self.spec, "rolled_back", reason, context, release_id=release_id, version=version, stable=stable)
        return reason
