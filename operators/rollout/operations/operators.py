"""Return to an earlier version, delete versions that are no longer needed, reconcile after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from operators.core.errors import RejectedError, ServiceRefusedError, TaxiwayError
from operators.core.loader import load_specs
from operators.core.rows import DrillStartedRow
from operators.core.settings import Settings
from operators.core.spec import ModelSpec
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.operators import DEPLOY_TIMEOUT_S, manual_moves_of, require_running
from operators.rollout.reconcile import client
from operators.rollout.triggers import DeployTrigger
from operators.traffic.client import Agent

_UNDER_WAY = ["queued", "running"]


class ScheduleRetirementOperator(TriggerDagRunOperator):
    """Start the DAG that deletes the replaced version after it has been kept warm.

    It is a run of its own, so that the next release need not wait for it.

    :param model: name of the model (templated)
    :param previous: the version that was replaced; empty after a first release (templated)
    :param after_s: seconds to wait before it is deleted (templated)
    :param kwargs: arguments of Airflow's ``TriggerDagRunOperator``
    :raises AirflowSkipException: no version was replaced
    """

    template_fields: Sequence[str] = (*TriggerDagRunOperator.template_fields, "previous")

    def __init__(self, *, model: str, previous: str, after_s: Any, **kwargs: Any) -> None:
        super().__init__(conf={"model": model, "version": previous, "after_s": after_s}, **kwargs)
        self.previous = previous

    def execute(self, context: Any) -> Any:
        """Trigger the DAG, if a version was replaced."""
        if not self.previous:
            raise AirflowSkipException("nothing was replaced")
        return super().execute(context)


class ReturnToOperator(BaseOperator):
    """Send all traffic back to an earlier version, because a person decided so.

    :param model: name of the model (templated)
    :param version: version that gets the traffic; empty for the one before the last promotion (templated)
    :param reason: why; the ledger keeps it (templated)
    :returns: ``champion``, ``left`` (the version that had the traffic), ``keep_warm_s``
    :raises AirflowFailException: there is no such version; a retry cannot help
    """

    template_fields: Sequence[str] = ("model", "version", "reason")

    def __init__(self, *, model: str, version: str, reason: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.reason = reason

    def execute(self, context: Any) -> None:
        """Deploy the version if it is not deployed any more, and wait for it."""
        moves = manual_moves_of(self.model)
        store = context["task_state_store"]
        try:
            # Chosen once: after the traffic has moved, "the version before" is another one.
            version = str(store.get("target") or moves.earlier(str(self.version) or None))
            store.set("target", version, retention=NEVER_EXPIRE)
            registered = moves.registry.version(self.model, version)
            spec = ModelSpec.from_json(registered.tags["taxiway.spec"])
        except (RejectedError, ServiceRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        except KeyError:
            raise AirflowFailException(f"version {version} of {self.model} was not registered by Taxiway") from None
        moves.agent.deploy(spec, version, registered.uri)
        trigger = DeployTrigger(model=self.model, version=version, deadline=time.time() + DEPLOY_TIMEOUT_S)
        self.defer(trigger=trigger, method_name="resume", kwargs={"version": version})

    def resume(self, context: Any, event: Mapping[str, str], version: str) -> dict[str, Any]:
        """Move the traffic, now that the version runs."""
        require_running(version, event)
        actor = getattr(context["dag_run"], "triggering_user_name", None) or "unknown"
        moves = manual_moves_of(self.model)
        try:
            left = moves.return_to(context["run_id"], version, self.reason, actor)
        except RejectedError as error:
            raise AirflowFailException(str(error)) from error
        spec = ModelSpec.from_json(moves.registry.version(self.model, version).tags["taxiway.spec"])
        return {"champion": version, "left": left or "", "keep_warm_s": spec.release.keep_warm_s}


class RetireOperator(BaseOperator):
    """Delete a version after it has been kept warm, unless it has traffic again.

    :param model: name of the model (templated)
    :param version: number of the version (templated)
    :param after_s: seconds to wait first (templated)
    :returns: the version
    :raises AirflowSkipException: the version has traffic again
    """

    template_fields: Sequence[str] = ("model", "version", "after_s")

    def __init__(self, *, model: str, version: str, after_s: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.after_s = after_s

    def execute(self, context: Any) -> None:
        """Wait, deferred, for as long as the version is kept warm."""
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=float(self.after_s))), method_name="resume")

    def resume(self, context: Any, event: Any) -> str:
        """Delete the version, unless it has traffic again."""
        if not manual_moves_of(self.model).retire(context["run_id"], self.version):
            raise AirflowSkipException(f"version {self.version} has traffic again")
        return self.version


class ReconcileOperator(BaseOperator):
    """Complete what a crash left half done: every release ends promoted or rolled back, and ledger, traffic and alias
    agree.

    Releases that are under way are left alone. Copies of drills are left to `RemoveDrillCopiesOperator`.

    :param model: name of one model; empty for all (templated)
    :returns: by model, what was done; models without anything to do are left out
    :raises AirflowFailException: something is left that only a person can mend
    """

    template_fields: Sequence[str] = ("model",)

    def __init__(self, *, model: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def execute(self, context: Any) -> dict[str, list[str]]:
        """Reconcile one model after the other. A failure with one does not stop the rest."""
        from operators.core.ledger import Ledger

        ledger, agent = Ledger(Settings.load().ledger_url), Agent()
        client.copy_journal(ledger, agent)
        # A version that a person is bringing back is deployed before anything names it.
        returning = bool(context["ti"].get_dr_count(dag_id="rollback", states=_UNDER_WAY))
        done: dict[str, list[str]] = {}
        problems: list[str] = []
        copies = {drill.copy_name for drill in ledger.rows(DrillStartedRow)}
        for model in [self.model] if self.model else client.models(ledger, agent):
            if model in copies:
                continue
            try:
                report = client.Reconciler(
                    ModelTraffic(model),
                    alive=self._is_alive(model, context),
                    keep_warm_s=_keep_warm_s(model),
                    retires=not returning,
                ).run()
            except TaxiwayError as error:
                problems.append(f"{model}: {error}")
                continue
            for action in report.actions:
                self.log.info("%s: %s %s, because %s", model, action.do, action.version or "", action.why)
            if report.actions:
                done[model] = [f"{action.do} {action.version or ''}".strip() for action in report.actions]
            if report.problem:
                problems.append(f"{model}: {report.problem}")
        if problems:
            raise AirflowFailException("; ".join(problems))
        return done

    @staticmethod
    def _is_alive(model: str, context: Any) -> Callable[[str], bool]:
        """Return a function that asks Airflow whether a release's run is under way."""

        def alive(run_id: str) -> bool:
            return bool(context["ti"].get_dr_count(dag_id=f"{model}.release", run_ids=[run_id], states=_UNDER_WAY))

        return alive


def _keep_warm_s(model: str) -> float:
    """Return the time in the model's spec; of a model without a spec, the longest of all specs."""
    specs = load_specs()[0]
    longest_s = max((spec.release.keep_warm_s for spec in specs), default=3600.0)
    return next((spec.release.keep_warm_s for spec in specs if spec.name == model), longest_s)
