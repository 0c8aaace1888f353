"""The spec of a drill's copy, and when a drill has passed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from operators.core.errors import RejectedError
from operators.core.frozen import Frozen
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Judge
from operators.core.spec_operations import Approval, Fault
from operators.core.spec_release import Release, Step

COPY_SUFFIX = "_drill"
STEP = "canary_50_pct"
LEASE_S = 6.0
_LONGEST_NAME = 63
# The fallback protects callers from a fault at once. These are limits on how long the canary may still have a share of them.
_AFTER_LEASE_S = 2.0
_JUDGED_S: Mapping[Fault, float] = {"bad_canary": 15.0, "dead_replica": 30.0}

EndedBy = Literal["judge", "lease", "hand"]
"""What took the canary's weight: a verdict, the end of the lease in the edge, or a rollback that was asked for."""


class PassCriteria(Frozen):
    """What a drill must keep to.

    :param failed_requests: how many failed answers callers may get
    :param to_zero_s: the longest time from the fault to the last request that goes to the canary, in seconds
    """

    failed_requests: int
    to_zero_s: float


class Observed(Frozen):
    """What happened in a drill.

    :param requests: of all callers
    :param failed_requests: of these, the ones with a failed answer
    :param failures: the first few of them, in words
    :param canary_requests: requests that the edge sent to the canary, with those that stable answered in its place
    :param canary_before: of these, the ones in the two seconds before the fault
    :param fallbacks: of these, the ones that stable answered
    :param stable_after: answers by stable to requests after the rollback
    :param to_zero_s: seconds from the fault to the last request that went to the canary
    :param rolled_back_s: seconds from the fault to the end of the release in the ledger
    :param ended_by: what took the canary's weight; None: nothing did
    :param verdict: the judge's last verdict; None: it was not asked
    """

    requests: int
    failed_requests: int
    failures: tuple[str, ...] = ()
    canary_requests: int
    canary_before: int
    fallbacks: int
    stable_after: int
    to_zero_s: float | None
    rolled_back_s: float | None
    ended_by: EndedBy | None
    verdict: str | None = None


def copy_name(model: str) -> str:
    """Return the name of a model's copy.

    :raises RejectedError: it would be too long
    """
    name = f"{model}{COPY_SUFFIX}"
    if len(name) > _LONGEST_NAME:
        raise RejectedError(
            f"{name} has more than {_LONGEST_NAME} characters: {model} needs a shorter name to be drilled"
        )
    return name


def copy_spec(spec: ModelSpec) -> ModelSpec:
    """Return the spec of a model's copy: the same model, with a release of one short step and a short lease.

    :raises RejectedError: the model's name is too long
    """
    step = Step.model_validate({"weight_pct": 50.0, "bake": "10m"})  # a canary without a fault is never promoted
    judge = Judge.model_validate({"slow": None, "min_requests": 20, "failures": {"margin_pct": 5.0}, "max_wait": "10m"})
    release = Release.model_validate(
        {
            "steps": (step,),
            "judge": judge,
            "approval": Approval(),
            "lease": f"{LEASE_S:g}s",
            "drain": "5s",
            "keep_warm": "1m",
        }
    )
    about = {"name": copy_name(spec.name), "description": f"a copy of {spec.name}, for drills", "release": release}
    return spec.model_copy(update={**about, "serving": spec.serving.model_copy(update={"replicas": 1})})


def pass_criteria(fault: Fault) -> PassCriteria:
    """Return what a drill with this fault must keep to."""
    return PassCriteria(failed_requests=0, to_zero_s=_JUDGED_S.get(fault, LEASE_S + _AFTER_LEASE_S))


def problems(fault: Fault, seen: Observed, criteria: PassCriteria) -> tuple[str, ...]:
    """Return why a drill has not passed; empty: it has passed."""
    wrong = []
    if seen.failed_requests > criteria.failed_requests:
        first = seen.failures[0] if seen.failures else "?"
        wrong.append(
            f"{seen.failed_requests} of {seen.requests} requests failed, the limit is {criteria.failed_requests}: {first}"
        )
    if fault != "bad_canary" and seen.canary_before == 0:
        wrong.append("the canary had no requests just before the fault, so the drill shows nothing")
    if seen.canary_requests == 0:
        wrong.append("the canary got no requests, so the drill shows nothing")
    if seen.ended_by is None or seen.to_zero_s is None:
        wrong.append("the canary kept its weight")
    elif seen.to_zero_s > criteria.to_zero_s:
        wrong.append(
            f"the canary got requests for {seen.to_zero_s:.1f} s after the fault, the limit is {criteria.to_zero_s:g} s"
        )
    if seen.rolled_back_s is None:
        wrong.append("the release was not rolled back")
    if seen.stable_after == 0:
        wrong.append("stable answered no caller after the rollback")
    if fault == "bad_canary" and seen.verdict != "Failed":
        wrong.append(f"every answer of the canary failed, but the judge's verdict was {seen.verdict or 'missing'}")
    return tuple(wrong)


def longest_ago(faults: Sequence[Fault], drilled: Sequence[str]) -> Fault:
    """Return the fault that was drilled longest ago, or never.

    :param faults: to choose from
    :param drilled: faults of the drills so far, oldest first
    """
    last = {fault: index for index, fault in enumerate(drilled)}
    return min(faults, key=lambda fault: last.get(fault, -1))
