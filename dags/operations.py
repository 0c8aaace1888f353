"""`rollback`: for a person. `retire`: for versions that releases have replaced. `reconcile`: after crashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param
from airflow.timetables.trigger import CronTriggerTimetable

from operators.core.loader import load_specs
from operators.drills.operators import RemoveDrillCopiesOperator
from operators.rollout.operations.operators import (
    ReconcileOperator,
    RetireOperator,
    ReturnToOperator,
    ScheduleRetirementOperator,
)

_COMMON: dict[str, Any] = {
    "catchup": False,
    "is_paused_upon_creation": False,  # in an emergency nobody should have to unpause them first
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=5)},
    "tags": ["taxiway"],
}
_MODELS = [spec.name for spec in load_specs()[0]]

with DAG(
    dag_id="rollback",
    description="Send all traffic of a model back to an earlier version, now",
    schedule=None,
    **_COMMON,
    params={
        "model": Param(_MODELS[0] if _MODELS else "", type="string", enum=_MODELS, title="Model"),
        "version": Param(
            None,
            type=["null", "string"],
            title="Version",
            description="Version that gets all traffic. Empty: the one before the last promotion.",
        ),
        "reason": Param("", type="string", minLength=3, title="Reason", description="Why; the ledger keeps it."),
    },
) as rollback:
    result = "ti.xcom_pull(task_ids='return_to')"
    ReturnToOperator(
        task_id="return_to",
        model="{{ params.model }}",
        version="{{ params.version or '' }}",
        reason="{{ params.reason }}",
    ) >> ScheduleRetirementOperator(
        task_id="retire_left",
        trigger_dag_id="retire",
        model="{{ params.model }}",
        previous=f"{{{{ {result}['left'] }}}}",
        after_s=f"{{{{ {result}['keep_warm_s'] }}}}",
    )

with DAG(
    dag_id="retire",
    description="Take a version down once it has been kept warm long enough; releases start this by themselves",
    schedule=None,
    max_active_runs=100,
    **_COMMON,
    params={
        "model": Param("", type="string", title="Model", description="Name of the model."),
        "version": Param("", type="string", title="Version", description="Version to take down."),
        "after_s": Param(0, type=["number", "string"], title="Wait", description="Seconds to wait before."),
    },
) as retire:
    RetireOperator(
        task_id="retire", model="{{ params.model }}", version="{{ params.version }}", after_s="{{ params.after_s }}"
    )

with DAG(
    dag_id="reconcile",
    description="End releases that a crash cut short, and remove the copies of killed drills; running ones are left alone",
    schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC", run_immediately=True),
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    max_active_runs=1,
    **_COMMON,
    params={
        "model": Param(
            "",
            type="string",
            enum=["", *_MODELS],
            title="Model",
            description="Empty: all models that the ledger or the edge knows.",
        )
    },
) as reconcile:
    ReconcileOperator(task_id="reconcile", model="{{ params.model }}")
    RemoveDrillCopiesOperator(task_id="remove_drill_copies", model="{{ params.model }}")
