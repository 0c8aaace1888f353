"""How a Ray job can fail. The class says whether another try can help; `JOB_RETRIES` acts on it."""

from __future__ import annotations

from operators.core.errors import TaxiwayError


class RayJobError(TaxiwayError):
    """A Ray job did not end as it should.

    :param message: what happened, with the job's own last lines
    :param submission_id: the job
    :param error_type: Ray's ``JobErrorType``, where Ray gives one
    """

    def __init__(self, message: str, *, submission_id: str = "", error_type: str | None = None) -> None:
        super().__init__(message)
        self.submission_id = submission_id
        self.error_type = error_type


class RayJobFailedError(RayJobError):
    """The job's own code failed. The task's ``retries`` decides whether it is tried again."""


class RayJobTimeoutError(RayJobError):
    """The job ran longer than the task allows, and was stopped."""


class RayJobStoppedError(RayJobError):
    """Somebody stopped the job."""


class TransientRayJobError(RayJobError):
    """The job itself is not at fault: another try can help."""


class RayNodeLostError(TransientRayJobError):
    """The job's supervisor died or never started, for example because its node was lost."""


class RayJobKilledError(TransientRayJobError):
    """The job was killed from outside, mostly because it ran out of memory or was preempted."""


class RayCapacityError(TransientRayJobError):
    """The cluster had no room for the job for as long as Ray waits."""


class RayJobLostError(TransientRayJobError):
    """Ray no longer knows the job, for example after a restart of the cluster. A retry submits it again."""


class RayLogUnreadError(TransientRayJobError):
    """The job succeeded, but the end of its log, where the result is, could not be read. A retry reads it again."""


class RayUnreachableError(TransientRayJobError):
    """The cluster did not answer for too long. The job may still run: a retry finds it."""


class FinalRayJobError(RayJobError):
    """Something must be corrected by hand: another try cannot help."""


class RayEntrypointError(FinalRayJobError):
    """The entrypoint cannot be started."""


class RayRuntimeEnvError(FinalRayJobError):
    """The runtime environment cannot be set up."""


class RayJobRejectedError(FinalRayJobError):
    """The job's exit code says that another try cannot help."""


class RayResultError(FinalRayJobError):
    """The job succeeded, but what it reported is missing, too large, or not of the declared type."""
