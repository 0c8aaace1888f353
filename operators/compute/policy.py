"""How a Ray job is named, so that a retry finds it again."""

from __future__ import annotations

import hashlib
import re

FINAL_EXIT_CODE = 3  # of a job that says itself that another try cannot help


def submission_id(dag_id: str, run_id: str, task_id: str, map_index: int, epoch: int) -> str:
    """Return the id of one attempt's job: readable, and unique for the five parts.

    :param epoch: 0 for the first job of a task, one more after each job that failed
    """
    parts = [dag_id, run_id, task_id, str(map_index), str(epoch)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{dag_id}-{task_id}").strip("-")[:60]
    return f"tw-{readable}-{digest}"
