"""The map's line and the counters' numbers: they hold what core/traffic.py declares, in the order of haproxy.cfg."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from operators.core.errors import ConfigurationError
from operators.core.traffic import COUNTS, Route, RouteBody, Row, Unit
from ray_jobs.edge import LATENCY_BOUNDS_MS, LiveRoute
from ray_jobs.edge.config import EdgeConfig
from ray_jobs.edge.counters import GPCS, read_counters
from ray_jobs.edge.map_line import FIELDS
from tests.support.routes import full_route

OF_THE_EDGE = {"lease_expires_at", "generation"}


@pytest.fixture(scope="module")
def haproxy_cfg() -> str:
    return Path(EdgeConfig.template).read_text()


def numbered(comment: str) -> dict[int, str]:
    """Return the names in a comment by the numbers that stand before them."""
    return {int(number): name for number, name in re.findall(r"\b(\d+) ([a-z_]+)", comment)}


def test_every_field_of_a_route_is_in_the_line_and_comes_back() -> None:
    assert set(FIELDS) == set(RouteBody.model_fields) | OF_THE_EDGE
    live = LiveRoute(full_route(), 1_800_000_000.125, 7)
    assert LiveRoute.parse(live.line()) == live


@pytest.mark.parametrize(
    "route",
    [
        Route(model="m", stable=None),
        Route(model="m", stable="1"),
        Route(model="m", stable="1", unit=Unit(header="X-Customer")),
        Route(model="m", stable="1", holder="-"),
    ],
)
def test_defaults_come_back_too(route: Route) -> None:
    live = LiveRoute(route, None, 1)
    assert LiveRoute.parse(live.line()) == live


def test_a_line_that_is_no_route_is_refused() -> None:
    line = LiveRoute(full_route(), None, 1).line()
    for wrong in ("m", "m 1:2", line + ":1", line.replace("500", "x"), line.replace("500", "10001")):
        with pytest.raises(ConfigurationError, match="is not a route"):
            LiveRoute.parse(wrong)


def test_the_numbers_of_the_fields_are_those_of_haproxy_cfg(haproxy_cfg: str) -> None:
    comment = haproxy_cfg[haproxy_cfg.index("#   1 stable") : haproxy_cfg.index("\nglobal")]
    names = {number: name.replace("lease_ends_ms", "lease_expires_at") for number, name in numbered(comment).items()}
    assert names == dict(enumerate(FIELDS, 1))
    used = {int(number) for number in re.findall(r"var\(txn\.route\),field\((\d+),:", haproxy_cfg)}
    assert used <= set(names)


def test_the_numbers_of_the_counters_are_those_of_haproxy_cfg(haproxy_cfg: str) -> None:
    comment = re.search(r"# gpc 0.*?from 10", haproxy_cfg, re.DOTALL)
    assert comment is not None
    assert numbered(comment[0].replace("\n#", "")) == dict(enumerate(COUNTS))
    used = {int(number) for number in re.findall(r"sc-inc-gpc\((\d+),", haproxy_cfg)}
    assert used == set(range(len(COUNTS)))


def test_a_line_of_haproxys_table_is_a_row() -> None:
    counts = " ".join(f"gpc{number}={number + 1}" for number in range(GPCS))
    (row,) = read_counters(f"0x1: key=m/3/canary/500 use=0 exp=0 {counts}\n0x2: key=n/3/canary/500 use=0\n", "m")
    assert row.key == ("3", "canary", 500)
    assert [getattr(row, name) for name in COUNTS] == list(range(1, len(COUNTS) + 1))
    assert row.latency == tuple(zip(LATENCY_BOUNDS_MS, range(len(COUNTS) + 1, GPCS + 1), strict=True))
    assert Row.model_validate_json(row.model_dump_json()) == row
