"""Who may move a route, and what a route becomes. Pure: no I/O, no clock."""

from __future__ import annotations

from operators.core.traffic import RouteBody
from ray_jobs.agent.state import Bar, HeldRoute
from ray_jobs.agent.wire import Renewal, Rollback


class RefusedError(Exception):
    """The request is understood, and may not be carried out now; the message is the answer with status 409."""


class UnknownError(Exception):
    """There is no such thing; the message is the answer with status 404."""


def set_to(
    held: HeldRoute | None, route: RouteBody, *, model: str, caller: str | None, force: bool, now: float
) -> HeldRoute:
    """Return a model's new route.

    :param held: the route until now
    :param caller: the holder on whose behalf it is moved
    :param force: also if another holder has it, or the caller was overruled
    :param now: unix seconds
    :raises RefusedError: it is not the caller's to move
    """
    if held is None:
        return HeldRoute(route=route, expires_at=_expiry(route, now))
    bar = None if force else held.bar
    if not force:
        _check_holder(held, model, caller)
        if bar is not None and bar.holder != route.holder:
            bar = None
        if bar is not None and _gives_traffic(route, bar.version):
            raise RefusedError(
                f"{model}: version {bar.version} was rolled back ({bar.reason}), and holder {bar.holder} cannot give it "
                f"traffic again. Begin another release, or set ?force=true"
            )
    return HeldRoute(route=route, expires_at=_expiry(route, now), before=_before(held, route.stable), bar=bar)


def removal(held: HeldRoute | None, *, model: str, caller: str | None, force: bool) -> None:
    """Check that a route may be forgotten.

    :param caller: None: not given, so nothing is checked
    :raises RefusedError: another holder has it
    """
    if held is not None and caller is not None and not force:
        _check_holder(held, model, caller)


def renewed(held: HeldRoute | None, renewal: Renewal, *, model: str, now: float) -> HeldRoute:
    """Return the route with its lease renewed.

    :param now: unix seconds
    :raises UnknownError: the model has no route
    :raises RefusedError: somebody else holds it, or the lease has ended
    """
    if held is None:
        raise UnknownError(f"model {model} has no route; set it with PUT /v1/routes/{model}")
    if held.route.holder != renewal.holder:
        raise RefusedError(f"the route of {model} is held by {held.route.holder}, not by {renewal.holder}")
    if held.bar is not None:
        raise RefusedError(f"{model}: version {held.bar.version} was rolled back ({held.bar.reason})")
    if held.ended or (held.expires_at is not None and held.expires_at <= now):
        raise RefusedError(
            f"the lease of {model} has ended, and its canary has no traffic any more; "
            f"set the route again with PUT /v1/routes/{model} to go on"
        )
    return held.model_copy(update={"expires_at": _expiry(held.route, now)})


def ended(held: HeldRoute) -> HeldRoute:
    """Return the route after its lease has ended: canary and shadow get nothing until somebody sets a new route."""
    route = held.route.model_copy(update={"weight_bp": 0, "shadow_bp": 0})
    return held.model_copy(update={"route": route, "expires_at": None, "ended": True})


def goes_back_to(held: HeldRoute, *, model: str) -> str | None:
    """Return the version that a rollback would bring back, or None if it only takes the canary's weight.

    After a promotion the version before may still have a share, as the control. It is no canary then.

    :raises RefusedError: there is nothing to go back to
    """
    if held.route.canary is not None and not _is_control(held):
        return None
    if held.before is None:
        raise RefusedError(f"{model} has no canary, and the agent knows no version before {held.route.stable}")
    return held.before


def rolled_back(held: HeldRoute, order: Rollback) -> tuple[HeldRoute, str | None]:
    """Return the route after a rollback, and the version that lost its traffic; None: no version had any.

    The holder keeps the route, so that it can clean up, and cannot give the version traffic again.

    :param order: why and by whom
    """
    route = held.route
    reason = f"{order.reason}, says {order.actor}"
    if route.canary is not None and not _is_control(held):
        left: str | None = route.canary
        route = route.model_copy(update={"weight_bp": 0, "shadow_bp": 0, "shadow": None})
        before = held.before
    else:
        left = route.stable
        nothing = {"canary": None, "weight_bp": 0, "from_top": False, "shadow": None, "shadow_bp": 0}
        route = route.model_copy(update={"stable": held.before, **nothing})
        before = None
    bar = None if left is None else Bar(holder=route.holder, version=left, reason=reason)
    return HeldRoute(route=route, before=before, bar=bar), left


def _check_holder(held: HeldRoute, model: str, caller: str | None) -> None:
    if held.route.holder is not None and held.route.holder != caller:
        raise RefusedError(
            f"the route of {model} is held by {held.route.holder}, not by {caller or 'nobody'}; "
            f"wait for that release to end, or set ?force=true"
        )


def _before(held: HeldRoute, stable: str | None) -> str | None:
    """Return the version to go back to. Going back is no promotion: a second rollback does not undo the first."""
    if held.route.stable is None or stable == held.route.stable:
        return held.before
    return None if stable == held.before else held.route.stable


def _is_control(held: HeldRoute) -> bool:
    return held.route.from_top and held.route.canary == held.before


def _gives_traffic(route: RouteBody, version: str) -> bool:
    return version == route.stable or (version == route.canary and route.weight_bp > 0)


def _expiry(route: RouteBody, now: float) -> float | None:
    return now + route.lease_s if route.needs_lease and route.lease_s is not None else None
