"""A release with a real edge, agent and ledger is judged again from what the ledger has of it."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from operators.audit.replay import by_spec, replay
from operators.audit.verify import verify
from operators.cli import replay as command
from operators.core.errors import ConfigurationError
from operators.core.spec import PredictionSpec
from operators.judge.evidence import Outcome
from operators.judge.phases import canary_phase
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look
from operators.rollout.steps.triggers import LookLoop, write_verdict
from operators.traffic.limits import AnswerLimits
from tests.support.agent_world import MODEL, World
from tests.support.specs import small_spec
from tests.support.waiting import until

_BAKE_S, _LONGEST_S, _CALLERS = 2.0, 20.0, 3


class Sometimes(dict[str, int]):
    """Answers of which one version's fail now and then."""

    def __init__(self, version: str, one_in: int) -> None:
        super().__init__()
        self._version, self._one_in, self._asked = version, one_in, 0

    def get(self, version: str, default: Any = None) -> Any:
        if version != self._version:
            return default
        self._asked += 1
        return 500 if self._asked % self._one_in == 0 else default


def spec_with(**judge: Any) -> PredictionSpec:
    given = {"alpha": 0.01, "min_requests": 50, "max_wait": "1m", "failures": {"margin_pct": 3}, "slow": None, **judge}
    return small_spec(name=MODEL, release={"steps": [{"weight_pct": 50, "bake": f"{_BAKE_S:g}s"}], "judge": given})


@contextmanager
def traffic(world: World) -> Iterator[None]:
    """Callers who ask once each."""
    stop = threading.Event()

    def ask(number: int) -> None:
        call, asked = world.call(), 0
        while not stop.is_set():
            call(f"{time.monotonic_ns()}-{number}-{asked}")
            asked += 1
            time.sleep(0.004)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(_CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def released(to: ReleaseMoves, spec: PredictionSpec, version: str) -> tuple[str, Outcome]:
    """Give a version half of the callers until the judge has a verdict, as the step's task and its trigger do."""
    release = spec.release
    begun = to.begin(f"of {version}", to.find(version))
    before = to.agent.counters(MODEL)
    move = to.set_route(
        begun.release_id, "canary_50", release, stable="1", version=version, weight_bp=5000, limits=AnswerLimits(30_000)
    )
    live = LivePhase(
        phase=canary_phase(release, 0),
        model=MODEL,
        release_id=begun.release_id,
        step="canary_50",
        canary=version,
        stable="1",
        lease_s=release.lease_s,
        released_at=move.at.timestamp(),
        began_at=move.at.timestamp(),
        before=before.of(version, "1"),
    )
    look = asyncio.run(_watch(spec, live))
    write_verdict(to, release.judge, live, look)
    to.roll_back(begun.release_id, version, "1", "the test is over")
    return begun.release_id, look.outcome


async def _watch(spec: PredictionSpec, live: LivePhase) -> Look:
    loop = LookLoop(spec.to_json(), live.model_dump(mode="json"), logging.getLogger(__name__))
    began = time.monotonic()
    try:
        while True:
            look = await loop.look()
            if look is not None and look.outcome is not Outcome.CONTINUE:
                return look
            assert time.monotonic() - began < _LONGEST_S, look
            await asyncio.sleep(0.25)
    finally:
        await loop.close()


def test_a_good_and_a_bad_release_are_judged_again_as_they_were_and_by_another_policy(
    to: ReleaseMoves, world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = spec_with()
    to.promote(to.begin("first", to.find("1")).release_id, "1", None, spec)
    call = world.call()
    until(lambda: call("first")[1] == "1", what="version 1")
    with traffic(world):
        good, found = released(to, spec, "2")
        assert found is Outcome.SUCCESSFUL
        world.serve.status = Sometimes("3", 10)
        bad, found = released(to, spec, "3")
        assert found is Outcome.FAILED
    assert verify(to.ledger, MODEL).holds

    looks = {one: to.ledger.looks(one) for one in (good, bad)}
    verdicts = {one: to.ledger.entries(to.model, release_id=one, kind="verdict") for one in (good, bad)}
    for one, outcome in ((good, Outcome.SUCCESSFUL), (bad, Outcome.FAILED)):
        again = replay(one, looks[one], verdicts[one])
        (step,) = again.steps
        print(step)
        assert again.same
        assert (step.replayed.outcome, step.replayed.look) == (outcome, len(looks[one]))
        assert replay(one, looks[one], verdicts[one], by_spec(spec.release)).same
    assert len(looks[bad]) > 1

    # The times of the other looks are good to the milliseconds that it takes to write one down.
    bold = replay(bad, looks[bad], verdicts[bad], by_spec(spec_with(alpha=0.5).release)).steps[0]
    assert bold.replayed.outcome is Outcome.FAILED
    assert bold.replayed.look < bold.recorded.look
    assert 0 < bold.replayed.elapsed_s < bold.recorded.elapsed_s
    lax = replay(bad, looks[bad], verdicts[bad], by_spec(spec_with(alpha=1e-9).release)).steps[0]
    assert lax.replayed.outcome is Outcome.CONTINUE
    narrow = replay(good, looks[good], verdicts[good], by_spec(spec_with(failures={"margin_pct": 0.01}).release))
    assert narrow.steps[0].replayed.outcome is Outcome.CONTINUE

    assert command.run(spec, bad, as_json=False, width=140) == 0
    assert "with this policy" not in capsys.readouterr().out
    assert command.run(command.with_judge(spec, ["alpha=0.5"]), bad, as_json=False, width=140) == 0
    said = capsys.readouterr().out
    assert f"Failed at look {bold.replayed.look}" in said
    assert "the release ends at canary_50" in said
    assert command.run(command.with_judge(spec, ["alpha=0.5"]), bad, as_json=True, width=140) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["release"], printed["same"]) == (bad, True)
    assert printed["policy"]["steps"][0]["replayed"]["look"] == bold.replayed.look
    with pytest.raises(ConfigurationError, match=f"no release of {MODEL} .*newest: {bad}, {good}"):
        command.run(spec, "nothing", as_json=False, width=140)
