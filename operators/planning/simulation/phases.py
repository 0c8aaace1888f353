"""What a release goes through, as the judge sees it: shadow, steps, watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from operators.core.spec_release import Release
from operators.judge.phases import alpha_share, canary_step, control_step, shadow_step
from operators.traffic.routes import CONTROL_BP

Kind = Literal["shadow", "step", "watch"]


@dataclass(frozen=True)
class Phase:
    """One part of a release.

    :param canary_share: of all units, those whose requests the new version answers, or gets a copy of
    :param stable_share: of all units, those that it is compared with
    :param exposed_share: of all units, those whose callers get the new version's answer
    :param harm_weight: share of the callers that what comes next would give to the new version
    :param late: whether it is held to labels and business numbers
    :param max_wait_s: then the judge says Inconclusive; for the watch: when it ends
    :param alpha_share: of the release's alpha, what all phases of this kind may spend
    """

    name: str
    kind: Kind
    canary_share: float
    stable_share: float
    exposed_share: float
    harm_weight: float
    bake_s: float
    max_wait_s: float
    min_requests: int
    late: bool = False
    alpha_share: float = 1.0

    @property
    def weight(self) -> float:
        """The canary's share of what is compared: a bad event is the canary's with this probability if it is no worse."""
        return self.canary_share / (self.canary_share + self.stable_share)


def phases_of(release: Release) -> tuple[Phase, ...]:
    """Return the phases of a release in their order."""
    pool, wait_s = 1 - release.holdout_pct / 100, release.judge.max_wait_s
    phases: list[Phase] = []
    if (shadow := release.shadow) is not None:
        shares = (shadow.sample_pct / 100, 1.0, 0.0)
        phases.append(_phase("shadow", "shadow", shares, shadow_step(release), wait_s, late=shadow.await_labels))
    for index, step in enumerate(release.steps):
        weight = step.weight_pct / 100
        shares = (weight, pool - weight, weight)
        phases.append(_phase(f"{step.weight_pct:g} %", "step", shares, canary_step(release, index), wait_s))
    if release.watch_s:
        control = CONTROL_BP / 10_000
        phases.append(
            _phase("watch", "watch", (1 - control, control, 1 - control), control_step(release), 0.0, late=True)
        )
    share = alpha_share(release)
    return tuple(replace(phase, alpha_share=share) for phase in phases)


def _phase(
    name: str,
    kind: Kind,
    shares: tuple[float, float, float],
    asked: Mapping[str, float | int],
    wait_s: float,
    *,
    late: bool = False,
) -> Phase:
    canary, stable, exposed = shares
    bake_s = float(asked["bake_s"])
    return Phase(
        name=name,
        kind=kind,
        canary_share=canary,
        stable_share=stable,
        exposed_share=exposed,
        harm_weight=float(asked["harm_weight"]),
        bake_s=bake_s,
        max_wait_s=max(bake_s, wait_s),
        min_requests=int(asked["min_requests"]),
        late=late,
    )
