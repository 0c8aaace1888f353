"""Messages from a Ray job to the Airflow task that waits for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from operators.compute.reports import MARK, MAX_RESULT_BYTES


def report(fraction: float | None = None, message: str = "", metrics: Mapping[str, float] | None = None) -> None:
    """Report the job's progress. The task's log shows it.

    :param fraction: the share of the work that is done, from 0 to 1
    :param message: what the job is doing
    :param metrics: the measurements so far, by name
    """
    payload: dict[str, Any] = {"message": message, "metrics": {k: float(v) for k, v in (metrics or {}).items()}}
    if fraction is not None:
        payload["progress"] = min(max(float(fraction), 0.0), 1.0)
    _send(payload)


def result(value: Any) -> None:
    """Give the task its result. Call this in the job's driver; the last call counts.

    :param value: a pydantic model, or anything that JSON can hold
    :raises ValueError: the value is larger than 48 KB; put it into a storage and report its address
    """
    plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    size = len(json.dumps(plain).encode())
    if size > MAX_RESULT_BYTES:
        raise ValueError(
            f"the result is {size:,} bytes of JSON; the limit is {MAX_RESULT_BYTES:,}. "
            "Put the value into a storage and report its address"
        )
    _send({"result": plain})


def _send(payload: dict[str, Any]) -> None:
    print(f"{MARK} {json.dumps(payload)}", flush=True)
