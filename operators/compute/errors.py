"""How a Ray job can end badly. The class says whether another try can help; `JOB_RETRIES` tells Airflow."""

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
    """The job's own code failed. Whether a retry can help is for the task's ``retries`` to say."""


class RayJobTimeoutError(RayJobError):
    """The job ran longer than the task allows, and was stopped."""


class RayJobStoppedError(RayJobError):
    """Somebody stopped the job."""


class TransientRayJobError(RayJobError):
    """Nothing is wrong with the job itself: another try can help."""


class RayNodeLostError(TransientRayJobError):
    """The job's supervisor died or never started, as it does when its node goes away."""


class RayJobKilledError(TransientRayJobError):
    """The job was killed from outside: out of memory, most often, or preempted."""


class RayCapacityError(TransientRayJobError):
    """The cluster had no room for the job in the time that Ray waits."""


class RayJobLostError(TransientRayJobError):
    """Ray no longer knows the job, as after a restart of the cluster; a retry submits it again."""


class RayLogUnreadError(TransientRayJobError):
    """The job succeeded, but the end of its log, and with it the result, could not be read: a retry reads it again."""


class RayUnreachableError(TransientRayJobError):
    """The cluster did not answer for too long. The job may be running: a retry finds it."""


class FinalRayJobError(RayJobError):
    """Something that a person wrote is wrong: another try cannot help."""


class RayEntrypointError(FinalRayJobError):
    """The entrypoint cannot be started."""


class RayRuntimeEnvError(FinalRayJobError):
    """The runtime environment cannot be set up."""


class RayJobRejectedError(FinalRayJobError):
    """The job's exit code says that another try cannot help."""


class RayResultError(FinalRayJobError):
    """The job succeeded, but what it reported is missing, too large, or not of the declared type."""
