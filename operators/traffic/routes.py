"""The edge's route at each point of a release, from the spec. Pure."""

from __future__ import annotations

from operators.core.spec_release import CONTROL_BP, Release, Unit
from operators.traffic.client import Route
from operators.traffic.limits import Limits


def only(model: str, stable: str | None, *, unit: Unit | None = None, holder: str | None = None) -> Route:
    """Return the route that gives one version everything."""
    return Route(model=model, stable=stable, unit=_unit(unit), holder=holder)


def canary(
    model: str, release: Release, *, stable: str, version: str, weight_bp: int, limits: Limits, holder: str
) -> Route:
    """Return the route of a canary's step.

    :param weight_bp: the canary's share in basis points; 0: it waits
    """
    return Route(
        model=model,
        stable=stable,
        canary=version,
        weight_bp=weight_bp,
        holdout_bp=round(release.holdout_pct * 100),
        unit=_unit(release.unit),
        testers=release.testers,
        slow_us=limits.slow_us,
        canary_timeout_ms=limits.canary_timeout_ms,
        max_in_flight=release.max_in_flight,
        lease_s=release.lease_s,
        holder=holder,
    )


def shadow(model: str, release: Release, *, stable: str, version: str, limits: Limits, holder: str) -> Route:
    """Return the route that copies requests to a version, whose answers nobody sees.

    :raises ValueError: the spec has no shadow
    """
    if release.shadow is None:
        raise ValueError(f"the spec of {model} has no `release.shadow`")
    return Route(
        model=model,
        stable=stable,
        shadow=version,
        shadow_bp=round(release.shadow.sample_pct * 100),
        shadow_max_in_flight=release.shadow.max_in_flight,
        unit=_unit(release.unit),
        testers=release.testers,
        slow_us=limits.slow_us,
        canary_timeout_ms=limits.canary_timeout_ms,
        holder=holder,
    )


def control(model: str, release: Release, *, stable: str, previous: str, limits: Limits, holder: str) -> Route:
    """Return the route after a promotion that is still watched: the old version keeps the units that would move last.

    They have never met the new version, so nobody moves back. The lease is on the control: if nobody watches any more, the
    promoted version has everything.
    """
    return Route(
        model=model,
        stable=stable,
        canary=previous,
        weight_bp=CONTROL_BP,
        from_top=True,
        unit=_unit(release.unit),
        slow_us=limits.slow_us,
        canary_timeout_ms=limits.canary_timeout_ms,
        max_in_flight=release.max_in_flight,
        lease_s=release.lease_s,
        holder=holder,
    )


def _unit(unit: Unit | None) -> dict[str, str] | None:
    return unit.model_dump(exclude_none=True) if unit else None
