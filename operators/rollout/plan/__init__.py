"""What a release will take, expose and detect, before it starts."""

from operators.rollout.plan.make import plan
from operators.rollout.plan.types import Plan

__all__ = ["Plan", "plan"]
