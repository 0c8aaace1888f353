"""The edge: a canary that nobody watches drains to 0, whether an agent lives or not."""

from __future__ import annotations

import time

import pytest

from operators.core.errors import RejectedError
from operators.core.traffic import Route
from ray_jobs.edge import Edge, EdgeConfig
from tests.support.edge_servers import MODEL, Caller, split
from tests.support.waiting import until


def test_a_lease_ends_by_itself(edge: Edge, call: Caller, config: EdgeConfig) -> None:
    edge.set_route(split(10_000, lease_s=1.0))
    assert call().arm == "canary"
    until(lambda: (call().arm, call().version) == ("stable", "3"))
    live = edge.live()[MODEL]
    assert live.route.weight_bp == 10_000
    assert live.lease_expires_at is not None
    assert live.lease_expires_at <= time.time()
    with pytest.raises(RejectedError, match="has ended"):
        edge.renew(MODEL, time.time() + 60)
    Edge(config).start()  # whoever comes later brings nothing back
    assert call().arm == "stable"
    edge.set_route(split(10_000))
    assert call().arm == "canary"


def test_a_lease_that_is_renewed_goes_on_also_after_a_restart(edge: Edge, call: Caller) -> None:
    edge.set_route(split(10_000, lease_s=1.0))
    end = time.time() + 60
    edge.renew(MODEL, end)
    time.sleep(1.1)
    assert call().arm == "canary"
    assert edge.live()[MODEL].lease_expires_at == pytest.approx(end, abs=0.001)
    edge.stop()
    edge.start()
    assert Caller(edge)().arm == "canary"


def test_a_renewal_is_cheap(edge: Edge) -> None:
    edge.set_route(split(10_000))
    began = time.process_time()  # the work of this process, which others on the machine do not make more
    for _ in range(100):
        edge.renew(MODEL, time.time() + 60)
    assert (time.process_time() - began) / 100 < 0.01


def test_without_a_weight_nothing_expires(edge: Edge) -> None:
    edge.set_route(split(0, lease_s=0.1))
    edge.set_route(Route(model="other", stable="1"))
    assert {live.lease_expires_at for live in edge.live().values()} == {None}
    for model in (MODEL, "other", "nobody"):
        with pytest.raises(RejectedError, match="no lease"):
            edge.renew(model, time.time() + 1)


def test_the_end_may_be_told(edge: Edge, call: Caller) -> None:
    """Several edges get the same one."""
    edge.set_routes([(split(10_000), time.time() - 1), (Route(model="other", stable="1"), None)])
    assert call().arm == "stable"
    assert set(edge.routes()) == {MODEL, "other"}
