"""The edge: which path leads where."""

from __future__ import annotations

import re

from operators.core.traffic import Route
from ray_jobs.edge import Edge
from tests.support.edge_servers import INFER, Caller, counted


class TestPaths:
    def test_a_models_path_goes_to_its_version(self, call: Caller) -> None:
        answer = call(path=f"{INFER}?trace=1", X_Request_Id="r-1", X_Taxiway_Route="flight_delay:9:9:0")
        assert answer.json["path"] == "/flight_delay/3/v2/models/flight_delay/infer?trace=1"
        assert (answer.version, answer.arm, answer.request_id) == ("3", "stable", "r-1")
        assert answer.json["headers"]["x-request-id"] == "r-1"
        assert "x-taxiway-route" not in answer.json["headers"]
        for path in ("/v2/models/flight_delay", "/v2/models/flight_delay/ready"):
            assert call("GET", path).json["path"] == f"/flight_delay/3{path}"

    def test_a_request_without_an_id_is_given_one(self, call: Caller) -> None:
        answer = call()
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.request_id)
        assert answer.json["headers"]["x-request-id"] == answer.request_id

    def test_what_the_edge_answers_itself(self, edge: Edge, call: Caller) -> None:
        edge.set_route(Route(model="empty", stable=None))
        assert call("GET", "/v2/health/live").json == {"live": True}
        assert call("GET", "/v2/health/ready").json == {"ready": True}
        assert call("GET", "/v2").json == {"name": "taxiway", "version": "0.1.0", "extensions": []}
        for method, path, status in (
            ("GET", "/v2/models/nobody/infer", 404),
            ("GET", '/v2/models/"%22/infer', 404),
            ("GET", "/v2/models", 404),
            ("GET", "/flight_delay/4/v2/models/flight_delay", 404),
            ("GET", "/v2/models/flight_delay/../../flight_delay/4", 404),
            ("GET", "/v2/models/flight_delay/%2e%2E/x", 404),
            ("GET", "/v2/models/empty/ready", 503),
            ("DELETE", "/v2", 405),
        ):
            answer = call(method, path)
            assert answer.status == status, path
            assert answer.json["error"]
        assert edge.counters("nobody") == []
        assert counted(edge, "edge", "empty").failures == 1
