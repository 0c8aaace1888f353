"""Runs one pickled function call on the cluster: the ``__main__`` of the package that `@task.ray` sends.

It needs the standard library and Ray only, so that the cluster needs nothing but the package.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

FINAL_EXIT_CODE = 3  # tells Airflow that another try cannot help
INLINE_BYTES = 32 * 1024  # in Base64 this fits the limit of a reported result
MARK = "::taxiway::"


def main(folder: Path) -> None:
    """Load the call, make it, and report its result."""
    about = json.loads((folder / "call.json").read_text())
    here = list(sys.version_info[:2])
    if about["python"] != here:
        _give_up(
            f"{about['name']} was pickled by Python {_dotted(about['python'])}, but this cluster runs {_dotted(here)}; "
            "use the same minor version of Python in Airflow and on the cluster"
        )
    try:
        function, args, kwargs = pickle.loads((folder / "call.pkl").read_bytes())  # noqa: S301 - what Airflow sent us
    except ModuleNotFoundError as error:
        _give_up(
            f"{about['name']} needs the module {error.name!r}, which this cluster lacks; "
            "add it with `py_modules`, `working_dir` or `pip` in the task's runtime_env"
        )
    try:
        returned = function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the function may raise anything; the traceback begins at the function, not here
        traceback.print_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        sys.exit(1)
    data = _pickled(returned, about["name"])
    if len(data) <= INLINE_BYTES:
        _send({"pickle": base64.b64encode(data).decode()})
        return
    address = os.environ.get("TAXIWAY_CALL_RESULT")
    if not address:
        _give_up(
            f"{about['name']} returned {len(data):,} bytes; without `storage` the limit is {INLINE_BYTES:,}. "
            "Give the task a `storage` address, s3://bucket/prefix or file:///shared/path, or return an address"
        )
    write(str(address), data)
    _send({"uri": address, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def write(address: str, data: bytes) -> None:
    """Write an object to ``s3://…`` or ``file:///…``. S3 is configured by the usual ``AWS_*`` variables."""
    from pyarrow import fs

    if address.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        scheme, _, host = endpoint.rstrip("/").partition("://")
        where: dict[str, Any] = {"scheme": scheme, "endpoint_override": host} if host else {}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        filesystem, path = fs.S3FileSystem(region=region, connect_timeout=5, request_timeout=120, **where), address[5:]
    else:
        filesystem, path = fs.FileSystem.from_uri(address)
        filesystem.create_dir(str(Path(path).parent), recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def _pickled(value: Any, name: str) -> bytes:
    from ray import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value, protocol=5))
    except Exception as error:  # noqa: BLE001 - a value that cannot be pickled may raise anything
        _give_up(f"the result of {name}, a {type(value).__name__}, cannot be pickled: {error}")


def _send(result: dict[str, Any]) -> None:
    print(f"{MARK} {json.dumps({'result': result})}", flush=True)


def _give_up(message: str) -> NoReturn:
    print(message, flush=True)
    sys.exit(FINAL_EXIT_CODE)


def _dotted(version: list[int]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    main(Path(__file__).parent)
