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
            reason="the job itself is not at fault; another try can help",
        ),
        RetryRule(
            exception=[errors.FinalRayJobError, ConfigurationError, RejectedError, ServiceRefusedError],
            action=RetryAction.FAIL,
            reason="another try cannot help",
        ),
    ]
)
"""The default ``retry_policy`` of Ray jobs: it retries where another try can help, and fails the task at once where it cannot.

The task's ``retries`` is still the limit. About errors that the policy does not name it decides alone.
"""
