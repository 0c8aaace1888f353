"""Phases of a release under way."""

from __future__ import annotations

from typing import Any

from operators.judge.phases import Phase
from operators.rollout.steps.live_phase import LivePhase

_PHASE = {
    "kind": "canary",
    "weights_bp": (5000,),
    "bake_s": 10.0,
    "max_wait_s": 1800.0,
    "min_requests": 1,
    "harm_weight": 1.0,
}
_LIVE = {
    "model": "m",
    "release_id": "r",
    "step": "canary",
    "canary": "2",
    "stable": "1",
    "lease_s": 60.0,
    "released_at": 0.0,
    "began_at": 0.0,
    "before": {},
}


def live_phase(phase: Phase | None = None, **changes: Any) -> LivePhase:
    """Return a step of half the callers that began at 0, with changes.

    :param phase: default: made of the changes that are its fields
    """
    of_phase = {name: changes.pop(name) for name in Phase.model_fields if name in changes}
    made = phase or Phase.model_validate({**_PHASE, **of_phase})
    return LivePhase.model_validate({**_LIVE, "phase": made, **changes})
