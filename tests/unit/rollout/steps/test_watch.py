"""The watch after a promotion."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators.core.rows import WatchEndedRow
from operators.core.traffic import Row
from operators.rollout.steps.operators import WatchOperator
from tests.support.readings import counted
from tests.support.step_world import RELEASE, StepWorld, deferred, end, spec_with
from tests.support.tasks import context


@pytest.fixture
def watch(world: StepWorld) -> WatchOperator:
    spec = spec_with(watch="60s")
    assert world.moves.promote(RELEASE["release_id"], "2", "1", spec)
    return WatchOperator(task_id="watch", spec=spec, release=RELEASE)


def test_the_watch_ends_well_unless_harm_is_proven(world: StepWorld, watch: WatchOperator) -> None:
    assert end(watch, deferred(watch, context()))["outcome"] in {"Continue", "Inconclusive"}
    assert world.ended_with(WatchEndedRow)
    assert (world.route.stable, world.route.canary) == ("2", None)


def test_proven_harm_gives_the_traffic_back(world: StepWorld, watch: WatchOperator) -> None:
    harm = Row(version="2", arm="stable", weight_bp=100, units=9900, failed_units=4000, failed_first=4000)
    fine = Row(version="1", arm="canary", weight_bp=100, units=100)
    world.sees(counted(harm, fine))
    with pytest.raises(AirflowFailException, match="Failed"):
        end(watch, deferred(watch, context()))
    assert not world.ended_with(WatchEndedRow)
    assert world.route.stable == "1"
