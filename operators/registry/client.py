"""MLflow's model registry over its REST API.

Importing `mlflow` takes seconds in every task process; the registry is seven documented calls
(https://mlflow.org/docs/latest/api_reference/rest-api.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.http import answer, client, unreachable

CHAMPION, CHALLENGER = "champion", "challenger"
_SERVICE = "MLflow"
_KEY = "taxiway.key"


class ModelVersion(BaseModel):
    """One version in the registry."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    source: str
    run_id: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """The address under which `mlflow.pyfunc.load_model` finds it."""
        return f"models:/{self.model}/{self.version}"


class Registry:
    """Versions, aliases and tags.

    :param url: the tracking server, e.g. ``http://127.0.0.1:5000``
    """

    def __init__(self, url: str) -> None:
        self._http = client(url, timeout_s=30.0)

    def register(self, model: str, source: str, run_id: str, *, key: str, tags: Mapping[str, str]) -> ModelVersion:
        """Register a logged model as a new version, once for each ``key``.

        :param source: the logged model's URI
        :raises ServiceError: MLflow did not answer
        """
        for known in self.versions(model):
            if known.tags.get(_KEY) == key:
                return known
        try:
            self._call("POST", "registered-models/create", {"name": model})
        except ServiceRefusedError as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error):
                raise
        body = {
            "name": model,
            "source": source,
            "run_id": run_id,
            "tags": [{"key": k, "value": v} for k, v in {**tags, _KEY: key}.items()],
        }
        if source.startswith("models:/"):
            model_id = source.removeprefix("models:/")
            body |= {"model_id": model_id, "source": self._artifacts(model_id)}
        return _version(self._call("POST", "model-versions/create", body)["model_version"])

    def versions(self, model: str) -> list[ModelVersion]:
        """Return all versions of a model, the newest first; an empty list if the model is unknown."""
        found: list[ModelVersion] = []
        page: str | None = ""
        while page is not None:
            query = {"filter": f"name = '{model}'", "max_results": "200", "page_token": page}
            answered = self._call("GET", "model-versions/search", query)
            found += [_version(row) for row in answered.get("model_versions", [])]
            page = answered.get("next_page_token") or None
        return sorted(found, key=lambda version: -int(version.version))

    def version(self, model: str, version: str) -> ModelVersion:
        """Return one version.

        :raises ServiceRefusedError: there is none
        """
        found = self._call("GET", "model-versions/get", {"name": model, "version": version})
        return _version(found["model_version"])

    def alias(self, model: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias names, or None."""
        try:
            found = self._call("GET", "registered-models/alias", {"name": model, "alias": alias})
        except ServiceRefusedError as error:
            if "RESOURCE_DOES_NOT_EXIST" in str(error) or "INVALID_PARAMETER_VALUE" in str(error):
                return None
            raise
        return _version(found["model_version"])

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self._call("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})

    def drop_alias(self, model: str, alias: str) -> None:
        """Remove an alias; one that is not there is as good as removed."""
        if self.alias(model, alias) is not None:
            self._call("DELETE", "registered-models/alias", {"name": model, "alias": alias})

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Tag a version."""
        self._call("POST", "model-versions/set-tag", {"name": model, "version": version, "key": key, "value": value})

    def _artifacts(self, model_id: str) -> str:
        return str(self._call("GET", f"logged-models/{model_id}", {})["model"]["info"]["artifact_uri"])

    def _call(self, method: str, path: str, values: dict[str, Any]) -> Any:
        sent: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
        try:
            return answer(self._http.request(method, f"/api/2.0/mlflow/{path}", **sent), _SERVICE)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


def _version(row: Mapping[str, Any]) -> ModelVersion:
    if "version" not in row:
        raise ServiceError(f"{_SERVICE} answered something that is not a version: {str(row)[:200]}")
    return ModelVersion(
        model=row["name"],
        version=str(row["version"]),
        source=row.get("source", ""),
        run_id=row.get("run_id", ""),
        tags={tag["key"]: tag["value"] for tag in row.get("tags", [])},
    )
