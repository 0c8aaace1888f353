"""The tasks of a release. Thin: `Controller` moves, `judge_step` decides, triggers wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from operators.core.errors import RejectedError, ServiceError, ServiceRefusedError
from operators.core.spec import ModelSpec
from operators.rollout.policy import Outcome, Verdict
from operators.rollout.triggers import DeployTrigger, JudgeTrigger

if TYPE_CHECKING:
    from operators.rollout.controller import Controller

_DEPLOY_TIMEOUT_S = 600.0


def _controller(model: str) -> Controller:
    """Import late: SQLAlchemy would cost every DAG file half a second."""
    from operators.rollout.controller import Controller

    return Controller(model)


class ReleaseOperator(BaseOperator):
    """Base of the tasks of a release.

    :param spec: the model's spec
    :param release: what `BeginReleaseOperator` returned: release_id, version, model_uri, stable (templated)
    """

    template_fields: Sequence[str] = ("release",)

    def __init__(self, *, spec: ModelSpec, release: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.release = release

    def controller(self) -> Controller:
        """Return the moves of this model's release."""
        return _controller(self.spec.name)


class BeginReleaseOperator(BaseOperator):
    """Find the version to release and claim the model for it.

    :param version: the version; empty means the challenger (templated)
    :return: ``release_id``, ``version``, ``model_uri``, ``stable`` (None for the first release), ``smoke_keys``
    """

    template_fields: Sequence[str] = ("version",)

    def __init__(self, *, spec: ModelSpec, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.version = version

    def execute(self, context: Any) -> dict[str, Any]:
        """Claim."""
        controller = _controller(self.spec.name)
        try:
            found = controller.find(str(self.version) or None)
        except RejectedError as error:
            if not self.version and context.get("triggering_asset_events"):
                # Several events may start several runs; the first has released the challenger of all.
                raise AirflowSkipException(str(error)) from error
            raise AirflowFailException(str(error)) from error
        try:
            release_id, stable = controller.begin(context["run_id"], found)
        except RejectedError as error:
            raise AirflowFailException(str(error)) from error
        tried = [found] if stable is None else [found, controller.registry.version(self.spec.name, stable)]
        keys = [version.tags["taxiway.smoke_key"] for version in tried if "taxiway.smoke_key" in version.tags]
        self.log.info("release %s: version %s over %s", release_id, found.version, stable or "nothing")
        return {
            "release_id": release_id,
            "version": found.version,
            "model_uri": found.uri,
            "stable": stable,
            "smoke_keys": keys,
        }


def require_running(version: str, event: Mapping[str, str]) -> None:
    """Read how a deployment went.

    :raises AirflowFailException: the version cannot run; a retry cannot help
    :raises ServiceError: the agent, or Ray, was away; a retry asks again
    """
    if event["status"] == "RUNNING":
        return
    said = f"version {version} is {event['status']}: {event['message']}"
    raise AirflowFailException(said) if event["status"] == "DEPLOY_FAILED" else ServiceError(said)


class DeployOperator(ReleaseOperator):
    """Deploy the version as a Serve application of its own, with no traffic."""

    def execute(self, context: Any) -> None:
        """Start the deployment and wait."""
        version = self.release["version"]
        self.controller().agent.deploy(self.spec, version, self.release["model_uri"])
        deadline = time.time() + _DEPLOY_TIMEOUT_S
        self.defer(
            trigger=DeployTrigger(model=self.spec.name, version=version, deadline=deadline), method_name="resume"
        )

    def resume(self, context: Any, event: Mapping[str, str]) -> str:
        """Read how it went."""
        require_running(self.release["version"], event)
        return event["status"]


class SmokeTestOperator(ReleaseOperator):
    """Send real rows straight to the new version, before it meets a caller."""

    def execute(self, context: Any) -> list[dict[str, Any]]:
        """Ask once with all rows and once with each of a few; then with nonsense, which must be refused, not crash."""
        from operators.core.settings import Settings
        from operators.core.storage import Storage
        from operators.rollout.smoke import smoke_test

        settings = Settings.load()
        storage = Storage.from_url(settings.storage_url)
        if not self.release["smoke_keys"]:
            raise AirflowFailException(
                f"version {self.release['version']} has no tag taxiway.smoke_key, and stable has none either: "
                "there are no rows to try it with"
            )
        # Stable's rows too: what its callers send today must be understood tomorrow.
        bodies = [storage.get_bytes(key) for key in dict.fromkeys(self.release["smoke_keys"])]
        try:
            return [smoke_test(settings.serve_url, self.spec, self.release["version"], body) for body in bodies]
        except RejectedError as error:
            raise AirflowFailException(str(error)) from error


class CanaryStepOperator(ReleaseOperator):
    """Give the canary one step's share of the traffic, and wait for the judge.

    :param index: which of the spec's steps
    :raises AirflowFailException: the verdict is not Successful; the rollback task does the rest
    """

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def execute(self, context: Any) -> None:
        """Set the weight, read the counters, and wait."""
        stable, version = self.release["stable"], self.release["version"]
        if stable is None:
            raise AirflowSkipException("there is nothing to compare the first release with")
        step = self.spec.release.steps[self.index]
        controller = self.controller()
        before = controller.agent.counters(self.spec.name, canary=version, stable=stable)
        controller.set_weight(
            self.release["release_id"],
            self.task_id,
            stable=stable,
            canary=version,
            weight_bp=step.weight_bp,
            attempt=context["ti"].try_number,
        )
        trigger = JudgeTrigger(
            model=self.spec.name,
            canary=version,
            stable=stable,
            judge=self.spec.release.judge.model_dump(mode="json", by_alias=True),
            bake_s=step.bake_s,
            started_at=time.time(),
            canary_before=before.canary.model_dump_json(),
            stable_before=before.stable.model_dump_json(),
        )
        self.defer(trigger=trigger, method_name="resume")

    def resume(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """Write the verdict down and obey it."""
        verdict = Verdict.model_validate(event)
        attempt = context["ti"].try_number
        self.controller().record_verdict(self.release["release_id"], self.task_id, attempt, verdict)
        self.log.info("%s: %s %s", verdict.outcome, verdict.reason, verdict.numbers)
        if verdict.outcome is not Outcome.SUCCESSFUL:
            raise AirflowFailException(f"{verdict.outcome}: {verdict.reason}")
        return verdict.model_dump(mode="json")


class PromoteOperator(ReleaseOperator):
    """Make the canary stable: traffic and alias together."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Promote."""
        release = self.release
        self.controller().promote(release["release_id"], release["version"], release["stable"], self.spec.to_json())
        return {"champion": release["version"], "previous": release["stable"]}


class ScheduleRetirementOperator(TriggerDagRunOperator):
    """Start the DAG that deletes the replaced version once it has been kept warm long enough.

    A run of its own, so that the next release need not wait for it.

    :param model: the model (templated)
    :param previous: the version that was replaced; empty after a first release (templated)
    :param after_s: seconds to wait (templated)
    """

    template_fields: Sequence[str] = (*TriggerDagRunOperator.template_fields, "previous")

    def __init__(self, *, model: str, previous: str, after_s: Any, **kwargs: Any) -> None:
        super().__init__(conf={"model": model, "version": previous, "after_s": after_s}, **kwargs)
        self.previous = previous

    def execute(self, context: Any) -> Any:
        """Trigger."""
        if not self.previous:
            raise AirflowSkipException("nothing was replaced")
        return super().execute(context)


class RollBackOperator(ReleaseOperator):
    """Runs when any task of the release failed: takes the canary out."""

    def execute(self, context: Any) -> str:
        """Roll back."""
        if not self.release:
            raise AirflowSkipException("the release never began: there is nothing to roll back")
        controller = self.controller()
        reason = controller.why(self.release["release_id"])
        try:
            controller.roll_back(self.release["release_id"], self.release["version"], self.release["stable"], reason)
        except RejectedError as error:
            controller.drop_orphan(self.release["version"])
            raise AirflowSkipException(str(error)) from error
        return reason


class ReturnToOperator(BaseOperator):
    """Send all traffic back to an earlier version, because a person said so.

    :param model: the model (templated)
    :param version: where the traffic goes; empty means the version before the last promotion (templated)
    :param reason: written to the ledger (templated)
    """

    template_fields: Sequence[str] = ("model", "version", "reason")

    def __init__(self, *, model: str, version: str, reason: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.reason = reason

    def execute(self, context: Any) -> None:
        """Make sure that the version is deployed, and wait for it."""
        from operators.core.spec import ModelSpec

        controller = _controller(self.model)
        store = context["task_state_store"]
        try:
            # Chosen once: after the traffic has moved, "the version before" is another one.
            version = str(store.get("target") or controller.earlier(str(self.version) or None))
            store.set("target", version, retention=NEVER_EXPIRE)
            found = controller.registry.version(self.model, version)
            spec = ModelSpec.from_json(found.tags["taxiway.spec"])
        except (RejectedError, ServiceRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        except KeyError:
            raise AirflowFailException(f"version {version} of {self.model} was not registered by Taxiway") from None
        controller.agent.deploy(spec, version, found.uri)
        trigger = DeployTrigger(model=self.model, version=version, deadline=time.time() + _DEPLOY_TIMEOUT_S)
        self.defer(trigger=trigger, method_name="resume", kwargs={"version": version})

    def resume(self, context: Any, event: Mapping[str, str], version: str) -> dict[str, Any]:
        """Move the traffic."""
        from operators.core.spec import ModelSpec

        require_running(version, event)
        actor = getattr(context["dag_run"], "triggering_user_name", None) or "unknown"
        controller = _controller(self.model)
        try:
            left = controller.return_to(context["run_id"], version, self.reason, actor)
        except RejectedError as error:
            raise AirflowFailException(str(error)) from error
        spec = ModelSpec.from_json(controller.registry.version(self.model, version).tags["taxiway.spec"])
        return {"champion": version, "left": left or "", "keep_warm_s": spec.release.keep_warm_s}


class RetireOperator(BaseOperator):
    """Delete a version that has been kept warm long enough, unless it has traffic again.

    :param model: the model (templated)
    :param version: the version (templated)
    :param after_s: seconds to wait first (templated)
    """

    template_fields: Sequence[str] = ("model", "version", "after_s")

    def __init__(self, *, model: str, version: str, after_s: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.after_s = after_s

    def execute(self, context: Any) -> None:
        """Wait."""
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=float(self.after_s))), method_name="resume")

    def resume(self, context: Any, event: Any) -> str:
        """Delete."""
        if not _controller(self.model).retire(context["run_id"], self.version):
            raise AirflowSkipException(f"version {self.version} has traffic again")
        return self.version
