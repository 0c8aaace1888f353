"""MLflow's model registry over its REST API.

Importing `mlflow` takes seconds in every task process; the registry is ten documented calls
(https://mlflow.org/docs/latest/api_reference/rest-api.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from operators.core.errors import ConfigurationError, RejectedError, ServiceRefusedError
from operators.core.http import unreachable
from operators.registry.entities import (
    KEY_TAG,
    NO_VERSION,
    SERVICE,
    ModelVersion,
    RegisteredModel,
    alias_tag,
    read_metrics,
    read_model,
    read_version,
)
from operators.registry.server import Server, is_called, is_missing, newer_than, quoted, read, request

CHAMPION, CHALLENGER = "champion", "challenger"
_PAGE_ROWS = 200

__all__ = ["CHALLENGER", "CHAMPION", "ModelVersion", "RegisteredModel", "Registry"]


class Registry:
    """Versions, aliases and tags.

    :param server: the tracking server, or its address, e.g. ``http://127.0.0.1:5000``
    """

    def __init__(self, server: Server | str) -> None:
        self.server = Server(url=server) if isinstance(server, str) else server
        self._http = self.server.client()

    def register(self, model: str, source: str, run_id: str, *, key: str, tags: Mapping[str, str]) -> ModelVersion:
        """Register a logged model as a new version, once for each ``key``.

        MLflow cannot keep a tag unique, so two calls at the same time may both create a version. Each call therefore
        looks again after it has created one. The lowest version of a key stays; the call that made another deletes it,
        or the next call does if that one was killed.

        :param source: ``models:/<id of a logged model>``, ``models:/<model>/<version>``, ``models:/<model>@<alias>``,
            ``runs:/<run>/<path>``, or where the artifacts are
        :param run_id: the run that made it; may be empty
        :raises ServiceError: MLflow did not answer
        """
        if known := self._settle(model, key):
            return known
        try:
            self._call("POST", "registered-models/create", {"name": model})
        except ServiceRefusedError as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error):
                raise
        body: dict[str, Any] = {
            "name": model,
            "source": source,
            "tags": [{"key": k, "value": v} for k, v in {**tags, KEY_TAG: key}.items()],
        }
        if run_id:
            body["run_id"] = run_id
        body |= self._where(source)
        created = read_version(self._call("POST", "model-versions/create", body)["model_version"])
        return self._settle(model, key) or created

    def _settle(self, model: str, key: str) -> ModelVersion | None:
        """Return the version of a key, and delete the later ones that a race or a kill has left."""
        versions = self._search(f"{is_called(model)} AND tags.`{KEY_TAG}` = {quoted(key)}")
        for double in versions[1:]:
            try:
                if not self.version(model, double.version).aliases:
                    self.delete_version(model, double.version)
            except ServiceRefusedError as error:  # whoever made it may be deleting it, too
                if not is_missing(error):
                    raise
        return versions[0] if versions else None

    def model(self, model: str) -> RegisteredModel | None:
        """Return a model with its aliases and tags, or None if there is none of the name."""
        answer = self._find("registered-models/get", {"name": model})
        return read_model(answer["registered_model"]) if answer else None

    def versions(self, model: str, *, above: int = 0) -> list[ModelVersion]:
        """Return the versions of a model, the newest first; an empty list if the model is unknown.

        :param above: only versions with a higher number
        """
        return self._search(newer_than(model, above))[::-1]

    def _search(self, filter_: str) -> list[ModelVersion]:
        """Return all versions that match, the oldest first."""
        versions: list[ModelVersion] = []
        query = {"filter": filter_, "max_results": str(_PAGE_ROWS), "order_by": "version_number ASC"}
        while True:
            answered = self._call("GET", "model-versions/search", query)
            versions += [read_version(row) for row in answered.get("model_versions", [])]
            if not (page := answered.get("next_page_token")):
                return sorted(versions, key=lambda version: version.number)
            query = {**query, "page_token": page}

    def version(self, model: str, version: str) -> ModelVersion:
        """Return one version.

        :raises ServiceRefusedError: there is none
        """
        answer = self._call("GET", "model-versions/get", {"name": model, "version": version})
        return read_version(answer["model_version"])

    def alias(self, model: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias names, or None."""
        answer = self._find("registered-models/alias", {"name": model, "alias": alias})
        return read_version(answer["model_version"]) if answer else None

    def find(self, model: str, version: str) -> ModelVersion:
        """Return the version of a number (``7``) or of an alias (``@champion``).

        :raises ConfigurationError: ``version`` is neither
        :raises RejectedError: there is no such version or alias
        """
        if version.startswith("@"):
            if (named := self.alias(model, version[1:])) is not None:
                return named
            raise RejectedError(f"{model} has no version with the alias `{version[1:]}`")
        if not version.isdigit():
            raise ConfigurationError(f"{version!r} is neither a version, e.g. 7, nor an alias, e.g. @champion")
        if (answer := self._find("model-versions/get", {"name": model, "version": version})) is None:
            raise RejectedError(f"{model} has no version {version}")
        return read_version(answer["model_version"])

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias at a version. A tag of the model records it, so that a move by somebody else can be told apart."""
        self._tag_model(model, alias_tag(alias), version)
        self._call("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})

    def drop_alias(self, model: str, alias: str) -> bool:
        """Remove an alias. If there is no such alias, nothing happens.

        :returns: whether it was there
        """
        if self.alias(model, alias) is None:
            return False
        self._tag_model(model, alias_tag(alias), NO_VERSION)
        self._call("DELETE", "registered-models/alias", {"name": model, "alias": alias})
        return True

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Tag a version."""
        self._call("POST", "model-versions/set-tag", {"name": model, "version": version, "key": key, "value": value})

    def untag(self, model: str, version: str, key: str) -> None:
        """Remove a tag of a version. If there is no such tag, nothing happens."""
        self._call("DELETE", "model-versions/delete-tag", {"name": model, "version": version, "key": key})

    def delete_version(self, model: str, version: str) -> None:
        """Delete a version."""
        self._call("DELETE", "model-versions/delete", {"name": model, "version": version})

    def run(self, run_id: str) -> tuple[dict[str, float], dict[str, str]]:
        """Return the finite metrics and the tags of a run; nothing if the run is unknown."""
        answer = self._find("runs/get", {"run_id": run_id})
        if answer is None:
            return {}, {}
        run = answer["run"]
        return read_metrics(run), {tag["key"]: tag.get("value", "") for tag in run["data"].get("tags", [])}

    def health(self) -> None:
        """Make a small request that fails if the address, the credentials or the registry is wrong."""
        self._call("GET", "registered-models/search", {"max_results": "1"})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _tag_model(self, model: str, key: str, value: str) -> None:
        self._call("POST", "registered-models/set-tag", {"name": model, "key": key, "value": value})

    def _where(self, source: str) -> dict[str, str]:
        """Return the storage address of a logged model, and its id: MLflow's client looks them up, its server does not."""
        scheme, _, rest = source.partition(":/")
        if scheme == "models" and "@" in rest:
            name, _, alias = rest.partition("@")
            return {"source": self.find(name, f"@{alias}").uri}
        if scheme == "models" and "/" not in rest:
            return {"model_id": rest, "source": str(self._logged_model(rest)["artifact_uri"])}
        if scheme != "runs":
            return {"source": source}
        run_id, _, path = rest.strip("/").partition("/")
        run = self._call("GET", "runs/get", {"run_id": run_id})["run"]
        for output in run.get("outputs", {}).get("model_outputs", []):
            info = self._logged_model(output["model_id"])
            if info["name"] == path:
                return {"model_id": output["model_id"], "source": str(info["artifact_uri"])}
        return {"source": f"{run['info']['artifact_uri']}/{path}"}

    def _logged_model(self, model_id: str) -> dict[str, Any]:
        return dict(self._call("GET", f"logged-models/{model_id}", {})["model"]["info"])

    def _find(self, path: str, values: Mapping[str, str]) -> Any:
        """Return an answer, or None if MLflow has no such thing."""
        try:
            return self._call("GET", path, values)
        except ServiceRefusedError as error:
            if is_missing(error):
                return None
            raise

    def _call(self, method: str, path: str, values: Mapping[str, Any]) -> Any:
        try:
            return read(self._http.request(**request(method, path, values)))
        except httpx.HTTPError as error:
            raise unreachable(SERVICE, error) from error
