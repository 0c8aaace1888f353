"""Test a version with real rows before it gets traffic."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx

from operators.core.errors import RejectedError, ServiceError
from operators.core.http import client, unreachable
from operators.core.spec import PredictionSpec
from operators.core.tasks import Output

_SINGLE_ROWS = 5
_PASSING = (404, 502, 503, 504)  # Serve's proxy answers so while another deployment reloads it


def smoke_test(serve_url: str, spec: PredictionSpec, version: str, body: bytes) -> dict[str, Any]:
    """Send a request of many rows, a few requests of one row, and a wrong one.

    :param body: an Open Inference V2 request
    :returns: number of rows, smallest and largest answer
    :raises RejectedError: an answer is wrong
    :raises ServiceError: Serve did not answer
    """
    request = json.loads(body)
    rows = request["inputs"][0]["shape"][0]
    path = f"/{spec.name}/{version}/v2/models/{spec.name}/infer"
    with client(serve_url, timeout_s=30.0) as http:
        values = _predict(http, path, request, rows, spec.output)
        for index in range(min(rows, _SINGLE_ROWS)):
            one = _predict(http, path, _row(request, index), 1, spec.output)
            if not math.isclose(one[0], values[index], abs_tol=1e-5):
                raise RejectedError(
                    f"row {index} gets {one[0]} in a request of its own and {values[index]} in a request of {rows} rows"
                )
        wrong = _post(http, path, {"inputs": request["inputs"][1:]})
        if wrong.status_code != 400:
            raise RejectedError(f"a request that lacks an input got status {wrong.status_code} instead of 400")
    return {"rows": rows, "lowest": min(values), "highest": max(values)}


def _row(request: dict[str, Any], index: int) -> dict[str, Any]:
    return {"inputs": [{**tensor, "shape": [1], "data": [tensor["data"][index]]} for tensor in request["inputs"]]}


def _predict(http: httpx.Client, path: str, request: dict[str, Any], rows: int, output: Output) -> list[float]:
    response = _post(http, path, request)
    if response.status_code in _PASSING:
        raise ServiceError(f"Ray Serve answered {path} with {response.status_code}: {response.text[:300]}")
    if response.status_code != 200:
        raise RejectedError(f"a request with real rows got status {response.status_code}: {response.text[:300]}")
    values: list[float] = response.json()["outputs"][0]["data"]
    if len(values) != rows:
        raise RejectedError(f"a request of {rows} rows got {len(values)} values")
    outside = [value for value in values if not output.lowest <= value <= output.highest]  # NaN, too
    if outside:
        raise RejectedError(
            f"{len(outside)} of {rows} values are not a {output.name} from {output.lowest} to {output.highest}, e.g. {outside[0]}"
        )
    return values


def _post(http: httpx.Client, path: str, request: dict[str, Any]) -> httpx.Response:
    try:
        return http.post(path, json=request)
    except httpx.HTTPError as error:
        raise unreachable("Ray Serve", error) from error
