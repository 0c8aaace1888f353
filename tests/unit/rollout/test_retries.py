"""Which errors of a release's tasks another try can help with."""

from __future__ import annotations

import pytest
from airflow.sdk import RetryAction

from operators.core.errors import ConfigurationError, RejectedError, ServiceError
from operators.rollout.approval.operators import ApproveOperator
from operators.rollout.operators import BeginReleaseOperator, PromoteOperator
from operators.rollout.steps.operators import CanaryStepOperator, WatchOperator
from tests.support.step_world import RELEASE, canary, spec_with


@pytest.mark.parametrize("error", [RejectedError("put aside"), ConfigurationError("no address")])
def test_a_release_that_was_put_aside_does_not_try_again(error: Exception) -> None:
    spec = spec_with(watch="60s", approval={"mode": "manual"})
    tasks = [
        canary(spec),
        WatchOperator(task_id="watch", spec=spec, release=RELEASE),
        ApproveOperator(task_id="approve", spec=spec, release=RELEASE, verdict={}, index=0),
        BeginReleaseOperator(task_id="begin", spec=spec, version=""),
        PromoteOperator(task_id="promote", spec=spec, release=RELEASE),
    ]
    for task in tasks:
        decided = task.retry_policy.evaluate(exception=error, try_number=1, max_tries=5, context=None)
        assert decided.action is RetryAction.FAIL
        away = task.retry_policy.evaluate(exception=ServiceError("away"), try_number=1, max_tries=5, context=None)
        assert away.action is RetryAction.DEFAULT
    own = CanaryStepOperator(task_id="own", spec=spec, release=RELEASE, index=0, retry_policy=None)
    assert own.retry_policy is None
