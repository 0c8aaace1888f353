"""One model version as a Ray Serve application that speaks Open Inference Protocol V2."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from operators.core.errors import RejectedError
from operators.core.settings import storage_url
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from ray_jobs.serve import fast_path
from ray_jobs.serve.fast_reader import Reader
from ray_jobs.serve.prediction_log import HEADERS, EdgeHeaders, PredictionLog
from ray_jobs.serve.protocol import BadRequestError, metadata, read_output, write_answer, write_request
from ray_jobs.training.signature import limits_of

_log = logging.getLogger("ray.serve")
_SWITCH_S = 0.0005  # how long a request waits for the prediction log's thread; Python's default is ten times as long
_EDGE_HEADERS = frozenset(name.encode() for name in HEADERS)


class Version:
    """Loads a version and answers for it.

    A version does not start if its signature does not match the spec, or if it cannot answer its own input example. This class
    checks requests and answers itself: MLflow's own check makes a data frame of every request.

    :param spec_json: the model's spec, `PredictionSpec.to_json`
    :param version: the version's number in the registry
    :param model_uri: the model's address in MLflow
    """

    def __init__(self, spec_json: str, version: str, model_uri: str) -> None:
        import mlflow.pyfunc

        self._spec = PredictionSpec.from_json(spec_json)
        self._version = version
        loaded = mlflow.pyfunc.load_model(model_uri)
        limits = limits_of(loaded.metadata.signature, self._spec)
        self._reader = Reader(self._spec.features, max_rows=self._spec.serving.max_rows_per_request, limits=limits)
        self._model = loaded.unwrap_python_model()
        self._try_example(loaded.input_example)
        self._predictions = PredictionLog(Storage(storage_url()), self._spec, version)
        fast_path.answer_by(self.infer)
        sys.setswitchinterval(_SWITCH_S)

    def _try_example(self, example: Any) -> None:
        """Predict the rows that were logged with the model. This also warms the model up.

        :raises RejectedError: the model cannot predict them
        """
        if example is None:
            return
        shown = example.to_dict("records")[: self._spec.serving.max_rows_per_request]
        rows = [{**dict.fromkeys(self._spec.features), **row} for row in shown]
        try:
            request = self._reader.read(json.dumps(write_request(rows, self._spec.features)).encode())
            read_output(self._model.predict(None, request.columns), request.rows)
        except Exception as error:
            raise RejectedError(
                f"version {self._version} of {self._spec.name} cannot answer its own input example, so it does not start: "
                f"{type(error).__name__}: {error}"
            ) from error

    async def __call__(self, request: Request) -> Response:
        """Answer ``…/infer``, ``…/ready`` or, for any other path, the metadata."""
        path = request.url.path.rstrip("/")
        if path.endswith("/infer"):
            if request.method != "POST":
                return _json(405, {"error": f"{path} takes POST, not {request.method}"})
            status, answer, _ = self.infer(await request.body(), request.headers.raw)
            return Response(answer, status_code=status, media_type="application/json")
        if path.endswith("/ready"):
            return _json(200, {"ready": True})
        if path.endswith(f"/models/{self._spec.name}"):
            spec = self._spec
            about = metadata(model=spec.name, version=self._version, features=spec.features, output=spec.output.name)
            return _json(200, about)
        return _json(
            404, {"error": f"unknown path {path}; for predictions, POST to …/v2/models/{self._spec.name}/infer"}
        )

    def infer(self, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes, str]:
        """Answer a request for a prediction and keep it in the prediction log.

        :param body: JSON as the caller sent it
        :param headers: as ASGI has them, with names in lower case
        :returns: HTTP status, JSON and the request's id
        """
        texts = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _EDGE_HEADERS}
        try:
            request = self._reader.read(body)
        except BadRequestError as error:
            return 400, _error(str(error)), EdgeHeaders.of(texts, None).request_id
        from_edge = EdgeHeaders.of(texts, request.unit)
        try:
            values = read_output(self._model.predict(None, request.columns), request.rows)
            answer = write_answer(
                model=self._spec.name,
                version=self._version,
                request_id=request.id,
                output=self._spec.output.name,
                values=values,
            )
        except Exception as error:  # noqa: BLE001 - the model's code is the user's and may raise anything
            _log.exception("version %s of %s failed", self._version, self._spec.name)
            return 500, _error(f"version {self._version} failed: {type(error).__name__}"), from_edge.request_id
        self._predictions.add(from_edge, request.columns, values)
        return 200, answer, from_edge.request_id

    def __del__(self) -> None:
        if hasattr(self, "_predictions"):
            self._predictions.close()


def application(spec: PredictionSpec, version: str, model_uri: str, runtime_env: dict[str, Any]) -> serve.Application:
    """Return the Serve application of one version, with the resources that the spec asks for."""
    environment: dict[str, Any] = {}
    if runtime_env:  # the cluster's own environment has the setting; a replica with another one must bring it
        variables = {fast_path.SETTING: fast_path.PATH, **runtime_env.get("env_vars", {})}
        environment = {"runtime_env": {**runtime_env, "env_vars": variables}}
    deployment = serve.deployment(Version).options(
        name="version",
        num_replicas=spec.serving.replicas,
        max_ongoing_requests=64,
        ray_actor_options={
            "num_cpus": spec.serving.cpus_per_replica,
            "num_gpus": spec.serving.gpus_per_replica,
            **environment,
        },
        graceful_shutdown_timeout_s=5,
        # The edge counts requests; a line in the log for each one costs more than it is worth.
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(spec.to_json(), version, model_uri)


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), status_code=status, media_type="application/json")
