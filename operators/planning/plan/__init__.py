"""What a release will take, expose and detect, before it starts."""

from operators.planning.plan.policy import plan
from operators.planning.plan.types import Plan

__all__ = ["Plan", "plan"]
