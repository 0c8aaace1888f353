"""Which failures of a Ray job are worth another try."""

from __future__ import annotations

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from operators.compute import errors
from operators.core.errors import ConfigurationError, RejectedError, ServiceError, ServiceRefusedError

JOB_RETRIES = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=[errors.TransientRayJobError, ServiceError],
            action=RetryAction.RETRY,
            reason="nothing is wrong with the job itself",
        ),
        RetryRule(
            exception=[errors.FinalRayJobError, ConfigurationError, RejectedError, ServiceRefusedError],
            action=RetryAction.FAIL,
            reason="another try cannot help",
        ),
    ]
)
"""For ``retry_policy=``. Retries are still limited by the task's ``retries``; what no rule names follows those alone."""
