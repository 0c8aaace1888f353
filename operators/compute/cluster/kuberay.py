"""KubeRay, through Airflow's Kubernetes provider, which is an optional extra."""

from __future__ import annotations

import base64
from typing import Any

from operators.compute.cluster.policy import GROUP, PLURAL, TOKEN_KEY, VERSION, KubeRayCluster, manifest
from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.extras import require

_TIMEOUT_S = 30


class KubeRay:
    """Create, read and delete RayClusters.

    :param kubernetes_conn_id: Airflow connection of type ``kubernetes``
    :raises ConfigurationError: the provider is not installed
    """

    def __init__(self, kubernetes_conn_id: str) -> None:
        require("kubernetes", "airflow.providers.cncf.kubernetes", "kubernetes", purpose="KubeRay")
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
        from kubernetes import client

        hook = KubernetesHook(conn_id=kubernetes_conn_id)
        self._objects = client.CustomObjectsApi(hook.api_client)
        self._core = client.CoreV1Api(hook.api_client)

    def create(self, cluster: KubeRayCluster, token: str) -> None:
        """Create the secret with the token, and the cluster. What exists already stays as it is."""
        secret = {
            "metadata": {"name": _secret(cluster.name), "labels": {"app.kubernetes.io/managed-by": "taxiway"}},
            "data": {TOKEN_KEY: base64.b64encode(token.encode()).decode()},
        }
        _call(self._core.create_namespaced_secret, cluster.namespace, secret, accept=409)
        body = manifest(cluster, token_secret=_secret(cluster.name))
        _call(
            self._objects.create_namespaced_custom_object, GROUP, VERSION, cluster.namespace, PLURAL, body, accept=409
        )

    def get(self, name: str, namespace: str) -> dict[str, Any] | None:
        """Return a RayCluster as Kubernetes has it, or None."""
        cluster: dict[str, Any] | None = _call(
            self._objects.get_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name, accept=404
        )
        return cluster

    def delete(self, name: str, namespace: str) -> None:
        """Delete a cluster and its secret."""
        _call(self._objects.delete_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name, accept=404)
        _call(self._core.delete_namespaced_secret, _secret(name), namespace, accept=404)


def _secret(name: str) -> str:
    return f"{name}-token"


def _call(function: Any, *arguments: Any, accept: int) -> Any:
    """Call Kubernetes.

    :param accept: status that is no error; None is returned for it
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return function(*arguments, _request_timeout=_TIMEOUT_S)
    except ApiException as error:
        if error.status == accept:
            return None
        kind = ServiceError if error.status in (0, 408, 429) or (error.status or 0) >= 500 else ServiceRefusedError
        raise kind(
            f"Kubernetes answered {function.__name__} with {error.status} {error.reason}: {error.body}"
        ) from None
    except HTTPError as error:
        raise ServiceError(f"Kubernetes did not answer {function.__name__}: {error}") from error
