"""What triggers of every package share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from airflow.triggers.base import BaseTrigger


@dataclass(kw_only=True, eq=False, repr=False)
class KeptTrigger(BaseTrigger):
    """A trigger whose fields are what Airflow's database keeps of it: a deferred task finds them there, perhaps years later."""

    def __post_init__(self) -> None:
        super().__init__()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {
            field.name: getattr(self, field.name) for field in fields(self)
        }
