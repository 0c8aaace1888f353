"""Progress and result of a job, written into its log for Airflow to read: one line, a mark followed by JSON.

Any program can write it: ``::taxiway:: {"progress": 0.4, "message": "epoch 4 of 10", "metrics": {"loss": 0.31}}`` or
``::taxiway:: {"result": {…}}``. `ray_jobs.progress` does it for Python.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field, ValidationError

from operators.core.frozen import Frozen

MARK = "::taxiway::"
MAX_RESULT_BYTES = 48 * 1024  # it travels through Airflow's database


class Report(Frozen):
    """One marked line of a job's log: progress, or the result."""

    progress: float | None = Field(None, ge=0, le=1, description="share of the work that is done")
    message: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    result: Any = None

    @property
    def has_result(self) -> bool:
        """Whether the line has a result; null is a result, too."""
        return "result" in self.model_fields_set

    @property
    def text(self) -> str:
        """Progress in words, for the task's log."""
        share = "" if self.progress is None else f"{self.progress:.0%}"
        metrics = ", ".join(f"{name}={value:.6g}" for name, value in self.metrics.items())
        return "progress: " + " · ".join(part for part in (share, self.message, metrics) if part)


def read(line: str) -> Report | None:
    """Return the report in a line of a log, or None. A worker's line has Ray's prefix before the mark."""
    _, mark, body = line.partition(MARK)
    if not mark:
        return None
    try:
        return Report.model_validate(json.loads(body))
    except (ValueError, ValidationError):
        return None
