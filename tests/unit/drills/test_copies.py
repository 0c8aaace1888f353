"""What may be copied, killed and removed, and what a drill refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from operators.core.errors import RejectedError
from operators.core.spec import PredictionSpec
from operators.drills.copies import original, require_ours, require_quiet
from operators.drills.policy import copy_spec
from ray_jobs import drill as job
from tests.support.release_world import FakeRegistry
from tests.support.specs import small_spec

SPEC = small_spec(name="flight_delay")


def world(tags: dict[str, str] | None, model: str = "flight_delay") -> Any:
    registry = FakeRegistry("3")
    if tags is not None:
        registry.tags["3"] = tags
        registry.set_alias(model, "champion", "3")
    return SimpleNamespace(model=model, registry=registry)


TAGS = {"taxiway.smoke_key": "smoke/3.json", "taxiway.spec": SPEC.to_json()}


def test_what_is_copied_is_the_champion() -> None:
    found = original(world(TAGS))
    assert (found.version, found.uri, found.smoke_key) == ("3", "models:/flight_delay/3", "smoke/3.json")
    assert PredictionSpec.from_json(found.spec) == copy_spec(SPEC)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (None, "flight_delay has no champion to copy; release a version first"),
        ({"taxiway.spec": "x"}, "version 3 of flight_delay has no tag taxiway.smoke_key"),
        ({}, "no tag taxiway.smoke_key and no tag taxiway.spec"),
    ],
)
def test_a_model_that_cannot_be_drilled_says_why(tags: Any, said: str) -> None:
    with pytest.raises(RejectedError, match=said):
        original(world(tags))


def test_a_model_that_happens_to_be_called_so_is_left_alone() -> None:
    found = SimpleNamespace(version="1", tags={})
    registry = SimpleNamespace(versions=lambda _model: [found])
    with pytest.raises(RejectedError, match="m_drill is a model of its own"):
        require_ours(SimpleNamespace(model="m_drill", registry=registry))  # type: ignore[arg-type]
    found.tags = {"taxiway.made_by": "drill"}
    require_ours(SimpleNamespace(model="m_drill", registry=registry))  # type: ignore[arg-type]


def test_the_agent_is_not_killed_while_a_release_needs_it() -> None:
    def controller(**routes: Any) -> Any:
        found = {name: SimpleNamespace(model=name, **route) for name, route in routes.items()}
        return SimpleNamespace(agent=SimpleNamespace(routes=lambda: found))

    quiet, moving = {"weight_now_bp": 0, "shadow": None}, {"weight_now_bp": 500, "shadow": None}
    require_quiet(controller(other=quiet, m_drill=moving), "m_drill")
    for busy in (moving, {"weight_now_bp": 0, "shadow": "2"}):
        with pytest.raises(RejectedError, match="a release of other is under way"):
            require_quiet(controller(other=busy), "m_drill")


def test_only_a_copys_replicas_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def actor(class_name: str, pid: int) -> Any:
        return SimpleNamespace(class_name=class_name, pid=pid, node_id="n", name=None, ray_namespace="serve")

    actors = [actor("ServeReplica:m_drill-2:version", 1), actor("ServeReplica:m_drill-21:version", 2), actor("ServeReplica:m-2:version", 3)]  # fmt: skip
    monkeypatch.setattr(job, "_actors", lambda: actors)
    assert job._replicas("m_drill-2") == [("n", 1)]
    with pytest.raises(Exception, match="no application of a copy"):
        job._replicas("m-2")
    with pytest.raises(Exception, match="cannot do 'reboot'"):
        job.work({"do": "reboot"}, "key")
