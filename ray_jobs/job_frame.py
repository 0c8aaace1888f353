"""The frame of every Ray job: it reads the input, calls the work and writes the result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from operators.compute.policy import FINAL_EXIT_CODE
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.settings import storage_url
from operators.core.storage import Storage

_NICENESS = 10  # if a job shares a machine with replicas, callers go first


def run(work: Callable[[dict[str, Any], str], Mapping[str, Any]]) -> None:
    """Call ``work`` with the content of ``<key>/input.json`` and the key, and write its result to ``<key>/result.json``.

    The key is the job's first argument. A job can be killed at any point: if it runs again, it overwrites its own result.
    """
    os.nice(_NICENESS)
    key = sys.argv[1]
    storage = Storage(storage_url())
    try:
        result = work(json.loads(storage.get_bytes(f"{key}/input.json")), key)
    except (RejectedError, ConfigurationError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(FINAL_EXIT_CODE)
    storage.put_bytes(f"{key}/result.json", json.dumps(result, allow_nan=False).encode())
