"""The DAGs of every model: `<model>.train` and `<model>.release`, made from the specs in include/models/."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param, TriggerRule, XComArg, chain
from airflow.timetables.trigger import CronTriggerTimetable

from operators.compute.module_job import RayModuleOperator
from operators.core.loader import load_specs
from operators.core.spec import PredictionSpec
from operators.gates.operators import EvaluateOperator, GateOperator
from operators.registry.assets import challenger_by_hand, model_asset
from operators.registry.operators import RegisterOperator
from operators.rollout.approval.operators import ApproveOperator
from operators.rollout.operations.operators import ScheduleRetirementOperator
from operators.rollout.operators import (
    SMOKE_TEST,
    BeginReleaseOperator,
    DeployOperator,
    PromoteOperator,
    RollBackOperator,
    SmokeTestOperator,
)
from operators.rollout.steps.operators import CanaryStepOperator, ShadowOperator, WatchOperator
from operators.validation.operators import REPORT_KEY
from operators.validation.snapshots.operators import SnapshotOperator, ValidateSnapshotOperator

_RETRY = {"retries": 2, "retry_delay": timedelta(seconds=5)}
# Long enough for a restart of the agent or the ledger: the retries come after 5 s, 10 s, 20 s, 40 s and 60 s.
_PATIENCE = {
    "retries": 5,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=1),
}


def train_dag(spec: PredictionSpec) -> DAG:
    """Snapshot → validate → train → evaluate → gate → register."""
    retraining = spec.retraining
    schedule = CronTriggerTimetable(retraining.schedule, timezone="UTC") if retraining.schedule else None
    with DAG(
        dag_id=f"{spec.name}.train",
        description=f"Train {spec.name}: {spec.description}",
        schedule=schedule,
        start_date=_at_midnight(retraining.start),
        end_date=_at_midnight(retraining.end) if retraining.end else None,
        catchup=False,
        max_active_runs=1,
        default_args={"owner": spec.owner, **_RETRY},
        tags=["taxiway", spec.name],
        params={
            "as_of": Param(
                None,
                type=["null", "string"],
                format="date-time",
                title="As of",
                description="End of the training window: rows and labels that were known by then. Empty: the run's logical date.",
            ),
            "parameters": Param(
                {}, type="object", title="Parameters", description="Training parameters that replace those of the spec."
            ),
            "sources": Param(
                {},
                type="object",
                title="Sources",
                description='Sources that replace those of the spec: {"<table>": "<address>"}.',
            ),
        },
    ) as dag:
        snapshot = SnapshotOperator(
            task_id="snapshot", spec=spec, as_of="{{ params.as_of or '' }}", sources="{{ params.sources | tojson }}"
        )
        validate = ValidateSnapshotOperator(
            task_id="validate",
            model=spec.name,
            snapshot=snapshot.output,
            suite_path=spec.validation.suite,
            query_path=spec.data.query,
        )
        window_end = "{{ ti.xcom_pull(task_ids='snapshot')['window']['end'] }}"
        job: dict[str, Any] = {"dataset": validate.output, "end": window_end}
        tags = {"taxiway.dag_run": "{{ run_id }}", "taxiway.as_of": window_end}
        timeout = timedelta(seconds=spec.training.timeout_s)
        train = RayModuleOperator(
            task_id="train",
            module="ray_jobs.training.train",
            spec=spec,
            payload={**job, "parameters": "{{ params.parameters | tojson }}", "tags": tags},
            timeout=timeout,
            gpus=spec.training.scaling.workers * spec.training.scaling.gpus_per_worker,
        )
        evaluate = EvaluateOperator(
            task_id="evaluate",
            module="ray_jobs.training.evaluate",
            spec=spec,
            payload={**job, "challenger": "{{ ti.xcom_pull(task_ids='train')['model_uri'] }}"},
            timeout=timeout,
        )
        gate = GateOperator(task_id="gate", spec=spec, evaluation=evaluate.output, retries=0)
        register = RegisterOperator(
            task_id="register",
            spec=spec,
            trained=train.output,
            data_digest="{{ ti.xcom_pull(task_ids='validate')['digest'] }}",
            validation=XComArg(validate, key=REPORT_KEY),
            tags={**tags, "taxiway.smoke_key": "{{ ti.xcom_pull(task_ids='evaluate')['smoke_key'] }}"},
        )
        chain(snapshot, validate, train, evaluate, gate, register)
    return dag


def release_dag(spec: PredictionSpec) -> DAG:
    """Begin → deploy → smoke test → shadow → a task for each canary step and each approval → promote → watch, or roll back."""
    with DAG(
        dag_id=f"{spec.name}.release",
        description=f"Release a version of {spec.name} behind {spec.name}'s one endpoint",
        # New challengers: those that passed our gate, and those that a person has set in MLflow.
        schedule=model_asset(spec.name) | challenger_by_hand(spec.name),
        catchup=False,
        is_paused_upon_creation=False,  # a version that passed the gate is released without anybody's doing
        # A release that waits need not run yet; one that supersedes another must run beside it.
        max_active_runs=1 if spec.release.when_busy == "wait" else 16,
        default_args={"owner": spec.owner, **_PATIENCE},
        tags=["taxiway", spec.name],
        params={
            "version": Param(
                None,
                type=["null", "string"],
                title="Version",
                description="Number of a version in the registry. Empty: the version with the alias `challenger`.",
            )
        },
    ) as dag:
        begin = BeginReleaseOperator(task_id="begin", spec=spec, version="{{ params.version or '' }}")
        # In a first release there is no stable yet: each task that compares skips itself.
        move: dict[str, Any] = {"spec": spec, "release": begin.output, "trigger_rule": TriggerRule.NONE_FAILED}
        moves = [DeployOperator(task_id="deploy", **move), SmokeTestOperator(task_id=SMOKE_TEST, **move)]
        if spec.release.shadow is not None:
            moves.append(ShadowOperator(task_id="shadow", **move))
        moves += _canary(spec, move)
        moves.append(PromoteOperator(task_id="promote", **move))
        if spec.release.watch_s is not None:
            moves.append(WatchOperator(task_id="watch", **move))
        retire = ScheduleRetirementOperator(
            task_id="retire_previous",
            trigger_dag_id="retire",
            model=spec.name,
            previous="{{ ti.xcom_pull(task_ids='begin')['stable'] or '' }}",
            after_s=spec.release.keep_warm_s - (spec.release.watch_s or 0),
            trigger_rule=TriggerRule.NONE_FAILED,
        )
        chain(begin, *moves, retire)
        moves >> RollBackOperator(
            task_id="roll_back",
            spec=spec,
            release=begin.output,
            trigger_rule=TriggerRule.ONE_FAILED,
            # Without the agent the canary keeps its weight until its lease ends. The retries last until the agent is back.
            retries=40,
            retry_delay=timedelta(seconds=15),
            retry_exponential_backoff=0,
        )
    return dag


def _canary(spec: PredictionSpec, move: dict[str, Any]) -> list[BaseOperator]:
    """Return the canary's steps, and the approvals that the spec asks for: after each step, or one before the promotion."""
    tasks: list[BaseOperator] = []
    mode, last = spec.release.approval.mode, len(spec.release.steps) - 1
    for index, step in enumerate(spec.release.steps):
        weight = _weight(step.weight_pct)
        canary = CanaryStepOperator(task_id=f"canary_{weight}_pct", index=index, **move)
        tasks.append(canary)
        if mode == "ask" or (mode == "manual" and index == last):
            name = f"ask_at_{weight}_pct" if mode == "ask" else "approve"
            tasks.append(ApproveOperator(task_id=name, index=index, verdict=canary.output, **move))
    return tasks


def _weight(weight_pct: float) -> str:
    return f"{weight_pct:g}".replace(".", "_")


def _at_midnight(day: Any) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


# broken_specs.py reports the specs that cannot be read: an import error here would pause every model.
for model in load_specs()[0]:
    if isinstance(model, PredictionSpec):
        globals()[f"{model.name}_train"] = train_dag(model)
        globals()[f"{model.name}_release"] = release_dag(model)
