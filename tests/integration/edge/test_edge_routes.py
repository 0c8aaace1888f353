"""The edge: routes are set in one step and kept."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from operators.core.errors import ConfigurationError
from ray_jobs.edge import Edge, LiveRoute, Route, Unit
from tests.support.edge_servers import Answer, Caller, Versions, counted, split


class TestRoutes:
    def test_an_update_under_traffic_is_one_step(self, edge: Edge, versions: Versions) -> None:
        """Both canaries fail, so each request shows which stable its own route had."""
        routes = [Route("flight_delay", "1", "2", 5_000), split(5_000)]
        edge.set_route(routes[0])
        versions.behaviour |= {"2": 500, "4": 500}
        answers: list[Answer] = []
        failures: list[BaseException] = []
        done = threading.Event()

        def call_on() -> None:
            caller = Caller(edge)
            try:
                while not done.is_set():
                    answers.append(caller())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=call_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(200):
            edge.set_route(routes[i % 2])
            time.sleep(0.002)
        done.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert {answer.status for answer in answers} == {200}
        asked = {tuple(versions.asked[answer.request_id]) for answer in answers}
        assert asked == {("1",), ("3",), ("2", "1"), ("4", "3")}

    def test_routes_are_kept_counters_are_not_reset_and_models_are_removed(self, edge: Edge, call: Caller) -> None:
        call()
        for weight_bp in (10, 20):
            assert edge.set_route(split(weight_bp)).weight_bp == weight_bp
        edge.set_route(Route("other", "1", None, 0))
        assert edge.routes() == {
            "flight_delay": split(20),
            "other": Route("other", "1", None, 0),
        }
        edge.remove("other")
        edge.remove("other")
        assert set(edge.routes()) == {"flight_delay"}
        assert call(path="/v2/models/other").status == 404
        edge.remove("flight_delay")
        assert edge.routes() == {}
        assert counted(edge, "stable").requests == 1

    @pytest.mark.parametrize(
        "route",
        [
            ("Bad", "1", None, 0),
            ("a\nb", "1", None, 0),
            ("a b", "1", None, 0),
            ("a" * 64, "1", None, 0),
            ("m", "v1", None, 0),
            ("m", "1\n", None, 0),
            ("m", 1, None, 0),
            ("m", "1", "2", 10_001),
            ("m", "1", "2", -1),
            ("m", "1", "2", 0.5),
            ("m", "1", "2", True),
            ("m", "1", None, 1),
            ("m", None, "2", 0),
        ],
    )
    def test_a_route_that_is_not_valid_is_refused(self, route: tuple[Any, Any, Any, Any]) -> None:
        with pytest.raises(ConfigurationError):
            Route(*route)


class TestJson:
    def test_a_route_survives_json_and_haproxys_map(self) -> None:
        route = split(
            500, from_top=True, holdout_bp=100, shadow="5", shadow_bp=2_000, unit=Unit(field="customer.id"), testers=True,
            slow_us=35_000, lease_s=12.5, holder="a release: 7/ü;\n",
        )  # fmt: skip
        assert Route.from_json(route.model, json.loads(json.dumps(route.to_json()))) == route
        live = LiveRoute(route, 1_800_000_000.125, 7)
        assert LiveRoute.parse(live.line()) == live
        assert Route.from_json("m", {"stable": "3"}) == Route("m", "3")

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ([], "JSON object"),
            ({}, "`stable` is missing"),
            ({"stable": "3", "wieght_bp": 1}, "unknown key 'wieght_bp'"),
            ({"stable": "3", "canary": "3"}, "both stable and the canary"),
            ({"stable": "3", "canary": "4", "weight_bp": 1, "lease_s": None}, "needs lease_s"),
            ({"stable": "3", "canary": "4", "weight_bp": 9_000, "holdout_bp": 1_001}, "more than 10000"),
            ({"stable": "3", "shadow_bp": 1}, "without a shadow"),
            ({"stable": "3", "unit": {"header": "a b"}}, "does not match"),
            ({"stable": "3", "unit": {}}, "either `header` or `field`"),
            ({"stable": "3", "testers": 1}, "testers 1 is not true or false"),
            ({"stable": "3", "holder": ""}, "1 to 250"),
        ],
    )
    def test_what_is_wrong_is_named(self, body: Any, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words):
            Route.from_json("m", body)
