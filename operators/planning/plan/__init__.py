"""How long a release will take, how many callers it exposes and what it detects, before it starts."""

from operators.planning.plan.policy import plan
from operators.planning.plan.types import Plan

__all__ = ["Plan", "plan"]
