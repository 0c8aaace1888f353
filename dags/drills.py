"""Practise rollback: `drill` by hand, `<model>.drill` on a schedule if a spec has `release.drill`.

A copy of the model is released under a name of its own, and one fault is injected into that release. Callers of the model
itself do not notice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param
from airflow.timetables.trigger import CronTriggerTimetable

from operators.core.loader import load_specs
from operators.core.spec import ModelSpec
from operators.core.spec_operations import FAULTS
from operators.drills.operators import (
    ClaimDrillOperator,
    CleanUpDrillOperator,
    DrillOperator,
    PrepareDrillOperator,
)

_RETRY = {"retries": 2, "retry_delay": timedelta(seconds=5)}
_SPECS = load_specs()[0]
_MODELS = [spec.name for spec in _SPECS]


def drill_tasks(model: str, faults: Any) -> None:
    """Claim → prepare → drill; then clean up, however these ended."""
    claim = ClaimDrillOperator(task_id="claim", model=model, faults=faults)
    prepare = PrepareDrillOperator(task_id="prepare", claimed=claim.output)
    play = DrillOperator(task_id="drill", cast=prepare.output)
    clean_up = CleanUpDrillOperator(task_id="clean_up", claimed=claim.output)
    # Both are setups, so that clearing `drill` clears them, too: each try needs its own claim and copy.
    claim >> prepare.as_setup() >> play >> clean_up.as_teardown(setups=[claim, prepare])


def scheduled_drill(spec: ModelSpec, schedule: str, faults: tuple[str, ...]) -> DAG:
    """Return the DAG of a model's scheduled drills. Each run injects one fault; the runs take the faults in turn."""
    with DAG(
        dag_id=f"{spec.name}.drill",
        description=f"Practise rollback with a copy of {spec.name}",
        schedule=CronTriggerTimetable(schedule, timezone="UTC"),
        start_date=datetime(2020, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args={"owner": spec.owner, **_RETRY},
        tags=["taxiway", spec.name],
    ) as dag:
        drill_tasks(spec.name, list(faults))
    return dag


with DAG(
    dag_id="drill",
    description="Practise rollback: inject a fault into the release of a copy of a model",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args=_RETRY,
    tags=["taxiway"],
    params={
        "model": Param(
            _MODELS[0] if _MODELS else "",
            type="string",
            enum=_MODELS,
            title="Model",
            description="The drill uses a copy of this model.",
        ),
        "fault": Param(FAULTS[0], type="string", enum=list(FAULTS), title="Fault", description="What breaks."),
    },
) as drill:
    drill_tasks("{{ params.model }}", ["{{ params.fault }}"])

for spec in _SPECS:
    if spec.release.drill is not None:
        planned = spec.release.drill
        globals()[f"{spec.name}_drill"] = scheduled_drill(spec, planned.schedule, planned.faults)
