"""Pack a Python function call for the cluster, and read what it returned."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from operators.compute.errors import RayResultError
from operators.core.errors import ConfigurationError
from operators.core.extras import require
from operators.core.storage import Storage

MOST_BYTES = 100 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold: equal calls make equal packages


def pack(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the name of a module, and the zip that holds it: ``python -m <name>`` makes the call.

    The function is sent by value, with its closure and what it uses of its own module. What it imports is imported on the
    cluster.

    :raises ConfigurationError: the call cannot be pickled, or is too large
    """
    require("ray", "ray", purpose="@task.ray")
    from ray import cloudpickle

    name = getattr(function, "__qualname__", repr(function))
    module = sys.modules.get(function.__module__)
    by_value = module is not None and module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        call = cloudpickle.dumps((function, tuple(args), dict(kwargs)), protocol=5)
    except Exception as error:
        raise ConfigurationError(
            f"{name} cannot be sent to Ray: {type(error).__name__}: {error}. Everything that the function uses must be "
            "picklable; make connections, locks and open files inside the function"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    if len(call) > MOST_BYTES:
        raise ConfigurationError(
            f"the call of {name} is {len(call):,} bytes; the limit is {MOST_BYTES:,}. "
            "Put large arguments into storage and pass their address"
        )
    about = json.dumps({"python": list(sys.version_info[:2]), "name": name})
    main = (files("ray_jobs") / "call_runner.py").read_text(encoding="utf-8")
    digest = hashlib.sha256(call + about.encode() + main.encode()).hexdigest()[:16]
    package = f"taxiway_call_{digest}"
    return package, _zip(
        {
            f"{package}/__init__.py": b"",
            f"{package}/__main__.py": main.encode(),
            f"{package}/call.json": about.encode(),
            f"{package}/call.pkl": call,
        }
    )


def _zip(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def unpack(reported: Mapping[str, Any], submission_id: str) -> Any:
    """Return what the function returned. The cluster is trusted: a pickle runs code where it is read.

    :param reported: the job's result: ``pickle`` (Base64), or ``uri``, ``bytes`` and ``sha256``
    :raises RayResultError: the result has changed since the job wrote it, or needs a module that is missing here
    """
    if "pickle" in reported:
        data = base64.b64decode(reported["pickle"])
    else:
        folder, _, key = str(reported["uri"]).rpartition("/")
        data = Storage(folder).get_bytes(key)
        if hashlib.sha256(data).hexdigest() != reported["sha256"]:
            raise RayResultError(
                f"{reported['uri']} has changed since the job wrote it; clear the task to run the job again",
                submission_id=submission_id,
            )
    try:
        return pickle.loads(data)  # noqa: S301 - from the cluster that we gave our code to
    except ModuleNotFoundError as error:
        raise RayResultError(
            f"the function returned an object of the module {error.name!r}, which this worker does not have; return plain values",
            submission_id=submission_id,
        ) from None
