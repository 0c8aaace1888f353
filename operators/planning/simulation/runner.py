"""Many releases of one scenario. The same seed gives the same releases, with any number of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.judge.phases import phases_of
from operators.planning.simulation.engine import Run, SimulatedRelease
from operators.planning.simulation.feeds import STEADY, CountFeed, Feed, Pattern
from operators.planning.simulation.label_arrivals import LabelFeed, Labelling
from operators.planning.simulation.phase_judge import Clock
from operators.planning.simulation.requests import Recording, recorded_feed, zipf_feed
from operators.planning.simulation.scenarios import Scenario
from operators.planning.simulation.traffic_model import TrafficModel

_WORTH_A_PROCESS = 50  # releases; fewer take less time than to start a process


@dataclass(frozen=True)
class Setting:
    """What is simulated: a release, its traffic and its labels.

    :param recording: traffic in place of what ``load`` and ``pattern`` would generate
    :param labelling: how labels come; None: they do not
    :param look_s: simulated time between two looks
    """

    release: Release
    load: TrafficModel
    pattern: Pattern = STEADY
    recording: Recording | None = None
    labelling: Labelling | None = None
    look_s: float = 1.0

    @property
    def policy(self) -> Judge:
        """The judge without the guards that are not simulated; each other guard keeps its part of alpha."""
        judge = self.release.judge
        nothing: dict[str, object] = {"loss": None, "prediction": None, "business": {}, "series": {}}
        if self.labelling is None:
            nothing["labels"] = None
        kept = [name for name in judge.guards if name not in self.left_out]
        return judge.model_copy(update={**nothing, "alpha": judge.alpha * len(kept) / len(judge.guards)})

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the guards that are not simulated."""
        simulated = ("failures", "slow", *(("labels",) if self.labelling else ()))
        return tuple(name for name in self.release.judge.guards if name not in simulated)


@dataclass(frozen=True)
class Batch:
    """How the releases of one scenario ended, and what that cost.

    :param wall_s: real time
    """

    scenario: Scenario
    runs: tuple[Run, ...]
    clock: Clock
    wall_s: float


def simulate(setting: Setting, scenario: Scenario, *, releases: int, seed: int = 0, jobs: int = 1) -> Batch:
    """Run many releases of one scenario, in parallel processes.

    :param releases: number of releases
    :param jobs: number of processes
    """
    begun = time.perf_counter()
    jobs = max(1, min(jobs, releases // _WORTH_A_PROCESS, os.cpu_count() or 1))
    if jobs == 1:
        parts = [_some(setting, scenario, seed, range(releases))]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("forkserver")) as pool:
            numbers = [range(first, releases, jobs) for first in range(jobs)]
            parts = list(pool.map(_some, [setting] * jobs, [scenario] * jobs, [seed] * jobs, numbers))
    ordered = sorted((number, run) for done, _ in parts for number, run in done)
    clocks = [clock for _, clock in parts]
    return Batch(
        scenario=scenario,
        runs=tuple(run for _, run in ordered),
        clock=Clock(
            looks=sum(clock.looks for clock in clocks),
            asked=sum(clock.asked for clock in clocks),
            spent_s=sum(clock.spent_s for clock in clocks),
        ),
        wall_s=time.perf_counter() - begun,
    )


def _some(
    setting: Setting, scenario: Scenario, seed: int, numbers: Sequence[int]
) -> tuple[list[tuple[int, Run]], Clock]:
    import numpy as np

    phases, clock = phases_of(setting.release), Clock()
    name = sum(byte << (8 * place) for place, byte in enumerate(scenario.name.encode()[:8]))
    done = []
    for number in numbers:
        rng = np.random.default_rng([seed, name, number])
        simulated = SimulatedRelease(
            policy=setting.policy,
            feed=_feed(setting, scenario, rng),
            look_s=setting.look_s,
            labels=_labels(setting, scenario, rng),
            harm_from_share=scenario.from_share,
            clock=clock,
        )
        done.append((number, simulated.run(phases)))
    return done, clock


def _feed(setting: Setting, scenario: Scenario, rng: Any) -> Feed:
    if setting.recording is not None:
        return recorded_feed(rng, setting.recording, scenario)
    if setting.load.units is not None:
        return zipf_feed(rng, setting.load, scenario, setting.pattern)
    return CountFeed(rng, setting.load, scenario, setting.pattern)


def _labels(setting: Setting, scenario: Scenario, rng: Any) -> LabelFeed | None:
    shadow = setting.release.shadow
    if setting.labelling is None or shadow is None or setting.release.judge.labels is None:
        return None
    copied_per_s = setting.load.rate_per_s * shadow.sample_pct / 100
    return LabelFeed(rng, setting.labelling, copied_per_s, scenario.wrong, setting.release.judge.labels.block_s)
