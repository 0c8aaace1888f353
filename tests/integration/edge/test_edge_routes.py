"""The edge: routes are set in one step and kept."""

from __future__ import annotations

import threading
import time

from operators.core.traffic import Route
from ray_jobs.edge import Edge
from tests.support.edge_servers import Answer, Caller, Versions, counted, split


class TestRoutes:
    def test_an_update_under_traffic_is_one_step(self, edge: Edge, versions: Versions) -> None:
        """Both canaries fail, so each request shows which stable its own route had."""
        routes = [Route(model="flight_delay", stable="1", canary="2", weight_bp=5_000, lease_s=60), split(5_000)]
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
        edge.set_route(Route(model="other", stable="1"))
        assert edge.routes() == {
            "flight_delay": split(20),
            "other": Route(model="other", stable="1"),
        }
        edge.remove("other")
        edge.remove("other")
        assert set(edge.routes()) == {"flight_delay"}
        assert call(path="/v2/models/other").status == 404
        edge.remove("flight_delay")
        assert edge.routes() == {}
        assert counted(edge, "stable").requests == 1
