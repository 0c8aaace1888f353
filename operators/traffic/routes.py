"""The edge's route at each point of a release, from the spec. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from operators.core.errors import ConfigurationError
from operators.core.explain_error import explain
from operators.core.spec_release import CONTROL_BP, Release
from operators.core.traffic import Route, Unit
from operators.traffic.limits import AnswerLimits


def only(model: str, stable: str | None, *, unit: Unit | None = None, holder: str | None = None) -> Route:
    """Return the route that gives one version all of the traffic."""
    return Route(model=model, stable=stable, unit=unit, holder=holder)


def canary(
    model: str, release: Release, *, stable: str, version: str, weight_bp: int, limits: AnswerLimits, holder: str
) -> Route:
    """Return the route of a canary's step.

    :param weight_bp: 0: no caller gets the canary yet
    """
    return _route(
        release,
        limits,
        model=model,
        stable=stable,
        canary=version,
        weight_bp=weight_bp,
        holdout_bp=round(release.holdout_pct * 100),
        testers=release.testers,
        max_in_flight=release.max_in_flight,
        lease_s=release.lease_s,
        holder=holder,
    )


def shadow(model: str, release: Release, *, stable: str, version: str, limits: AnswerLimits, holder: str) -> Route:
    """Return the route that copies requests to a shadow.

    :raises ValueError: the spec has no shadow
    """
    if release.shadow is None:
        raise ValueError(f"the spec of {model} has no `release.shadow`")
    return _route(
        release,
        limits,
        model=model,
        stable=stable,
        shadow=version,
        shadow_bp=round(release.shadow.sample_pct * 100),
        shadow_max_in_flight=release.shadow.max_in_flight,
        testers=release.testers,
        holder=holder,
    )


def control(model: str, release: Release, *, stable: str, previous: str, limits: AnswerLimits, holder: str) -> Route:
    """Return the route of the watch after a promotion: the old version keeps a share, as the control.

    The control has the units with the highest buckets. They have never met the new version, so no unit moves back. If nobody
    renews the lease, the promoted version gets all of the traffic.
    """
    return _route(
        release,
        limits,
        model=model,
        stable=stable,
        canary=previous,
        weight_bp=CONTROL_BP,
        from_top=True,
        max_in_flight=release.max_in_flight,
        lease_s=release.lease_s,
        holder=holder,
    )


def _route(release: Release, limits: AnswerLimits, **values: Any) -> Route:
    """Return a route with the spec's unit and with the limits of the release.

    :raises ConfigurationError: a value of the spec is more than an edge takes
    """
    try:
        return Route(unit=release.unit, slow_us=limits.slow_us, canary_timeout_ms=limits.canary_timeout_ms, **values)
    except ValidationError as error:
        raise ConfigurationError(
            f"the edge cannot take the route of {values['model']}; change these values in its spec: {explain(error, Route)}"
        ) from error
