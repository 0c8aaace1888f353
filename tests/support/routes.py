"""A route with a value for every field."""

from __future__ import annotations

from operators.core.traffic import Route, RouteBody, Unit


def full_route() -> Route:
    """Return a route of which no field has its default value."""
    route = Route(
        model="flights", stable="3", canary="4", weight_bp=500, from_top=True, holdout_bp=100, shadow="5", shadow_bp=2_000,
        shadow_max_in_flight=8, unit=Unit(field="customer.id"), testers=True, slow_us=35_000, canary_timeout_ms=900,
        max_in_flight=32, lease_s=12.5, holder="a release: 7/ü;\n",
    )  # fmt: skip
    for name, field in RouteBody.model_fields.items():
        assert getattr(route, name) != field.default, f"give {name} a value here, so that the tests see it travel"
    return route
