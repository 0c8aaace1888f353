"""What a Ray job tells the Airflow task that waits for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from operators.compute.reports import MARK, MAX_RESULT_BYTES


def report(fraction: float | None = None, message: str = "", metrics: Mapping[str, float] | None = None) -> None:
    """Say how far the job is; the task's log shows it.

    :param fraction: share of the work that is done, 0 to 1
    :param message: in words
    :param metrics: what was measured so far, by name
    """
    said: dict[str, Any] = {"message": message, "metrics": {k: float(v) for k, v in (metrics or {}).items()}}
    if fraction is not None:
        said["progress"] = min(max(float(fraction), 0.0), 1.0)
    _say(said)


def result(value: Any) -> None:
    """Give the task its result. The last call counts; call it in the job's driver.

    :param value: a pydantic model, or anything that JSON can hold
    :raises ValueError: it is larger than 48 KB. Put large values into storage and report their address
    """
    plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    size = len(json.dumps(plain).encode())
    if size > MAX_RESULT_BYTES:
        raise ValueError(
            f"the result is {size:,} bytes of JSON; the limit is {MAX_RESULT_BYTES:,}. "
            "Put large values into storage and report their address"
        )
    _say({"result": plain})


def _say(said: dict[str, Any]) -> None:
    print(f"{MARK} {json.dumps(said)}", flush=True)
