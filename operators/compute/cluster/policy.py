"""The manifest of a KubeRay cluster, the meaning of its status, and when a cluster is deleted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from operators.core.frozen import Exact

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayclusters"
DASHBOARD_PORT = 8265
TOKEN_KEY = "token"  # noqa: S105 - the name of a field in a Kubernetes secret
Cleanup = Literal["never", "always", "on_exception"]
_FAILED = frozenset({"failed", "upstream_failed"})


class NodeGroup(Exact):
    """The pods of one kind: the head, or one group of workers."""

    cpus: float = Field(1, gt=0, description="CPU cores of each pod.")
    memory: str = Field(
        "4Gi", pattern=r"^\d+(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$", description="Memory of each pod, a Kubernetes quantity."
    )
    gpus: int = Field(0, ge=0, description="NVIDIA GPUs of each pod.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that the nodes must have.")
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=(), description="Kubernetes tolerations; GPU nodes often need one."
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables, in plain text. Secrets do not belong here."
    )


class WorkerGroup(NodeGroup):
    """A group of workers; if the cluster scales itself, their number stays between the two bounds."""

    name: str = Field("workers", pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description="Name of the group.")
    replicas: int = Field(1, ge=0, description="Number of workers at the start.")
    min_replicas: int | None = Field(
        None, ge=0, description="Least number of workers. If you leave it out, it is `replicas`."
    )
    max_replicas: int | None = Field(
        None, ge=0, description="Largest number of workers. If you leave it out, it is `replicas`."
    )

    @model_validator(mode="after")
    def _ordered(self) -> WorkerGroup:
        low, high = self.bounds
        if not low <= self.replicas <= high:
            raise ValueError(
                f"replicas is {self.replicas}; it must lie between min_replicas {low} and max_replicas {high}"
            )
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the most replicas."""
        return (
            self.replicas if self.min_replicas is None else self.min_replicas,
            self.replicas if self.max_replicas is None else self.max_replicas,
        )


class KubeRayCluster(Exact):
    """A Ray cluster on Kubernetes, as a DAG describes it."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$", description="Name of the RayCluster.")
    namespace: str = Field("default", description="Kubernetes namespace of the RayCluster.")
    image: str = Field(
        description="Container image with Ray. For `@task.ray` its Python must have the same minor version as Airflow's."
    )
    ray_version: str = Field("", description="Version of Ray in the image, e.g. `2.60.0`. KubeRay needs it to scale.")
    head: NodeGroup = Field(NodeGroup(), description="The pod of the head. It runs no tasks.")
    workers: tuple[WorkerGroup, ...] = Field((WorkerGroup(),), description="The groups of workers.")
    autoscaling: bool = Field(False, description="Whether the cluster scales its groups between their bounds.")
    service_account: str | None = Field(None, description="Kubernetes service account of the pods.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the RayCluster and of its pods.")


def manifest(cluster: KubeRayCluster, *, token_secret: str | None) -> dict[str, Any]:
    """Return the RayCluster, of KubeRay's API ``ray.io/v1``.

    :param token_secret: Kubernetes secret with the token that clients need; None: nobody needs one
    """
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayCluster",
        "metadata": {
            "name": cluster.name,
            "namespace": cluster.namespace,
            "labels": {"app.kubernetes.io/managed-by": "taxiway", **cluster.labels},
        },
        "spec": {
            **({"rayVersion": cluster.ray_version} if cluster.ray_version else {}),
            "enableInTreeAutoscaling": cluster.autoscaling,
            "headGroupSpec": {
                "serviceType": "ClusterIP",
                # The head runs no tasks: what ends it ends the cluster.
                "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},  # noqa: S104 - its service is ClusterIP
                "template": _pod(cluster, cluster.head, "ray-head", token_secret, ports=True),
            },
            "workerGroupSpecs": [
                {
                    "groupName": group.name,
                    "replicas": group.replicas,
                    "minReplicas": group.bounds[0],
                    "maxReplicas": group.bounds[1],
                    "rayStartParams": {},
                    "template": _pod(cluster, group, "ray-worker", token_secret, ports=False),
                }
                for group in cluster.workers
            ],
        },
    }


def _pod(
    cluster: KubeRayCluster, group: NodeGroup, name: str, token_secret: str | None, *, ports: bool
) -> dict[str, Any]:
    quantities = {"cpu": f"{group.cpus:g}", "memory": group.memory}
    if group.gpus:
        quantities["nvidia.com/gpu"] = str(group.gpus)
    env: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in group.env.items()]
    env.append({"name": "RAY_AUTH_MODE", "value": "token" if token_secret else "disabled"})
    if token_secret:
        reference = {"name": token_secret, "key": TOKEN_KEY}
        env.append({"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    container: dict[str, Any] = {
        "name": name,
        "image": cluster.image,
        "env": env,
        "resources": {"requests": quantities, "limits": quantities},
    }
    if ports:
        named = {"gcs-server": 6379, "dashboard": DASHBOARD_PORT, "client": 10001}
        container["ports"] = [{"name": key, "containerPort": port} for key, port in named.items()]
    spec: dict[str, Any] = {"containers": [container]}
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
    if group.node_selector:
        spec["nodeSelector"] = group.node_selector
    if group.tolerations:
        spec["tolerations"] = list(group.tolerations)
    return {"metadata": {"labels": dict(cluster.labels)}, "spec": spec}


def address(cluster_name: str, namespace: str) -> str:
    """Return the dashboard's address inside the Kubernetes cluster: KubeRay names the head's service after the cluster."""
    return f"http://{cluster_name}-head-svc.{namespace}.svc:{DASHBOARD_PORT}"


def readiness(cluster: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Return whether a RayCluster is ready, and its state in words.

    :raises ValueError: it will never be ready
    """
    if cluster is None:
        raise ValueError("somebody deleted it")
    status = cluster.get("status") or {}
    state, reason = status.get("state", ""), status.get("reason", "")
    if state in ("failed", "suspended"):
        raise ValueError(f"KubeRay says {state}: {reason}")
    ready, wanted = status.get("availableWorkerReplicas", 0), status.get("desiredWorkerReplicas", "?")
    return state == "ready", f"{state or 'no state yet'}, {ready} of {wanted} workers{f': {reason}' if reason else ''}"


def is_deleted(cleanup: Cleanup, states: Collection[str | None]) -> bool:
    """Say whether a cluster is deleted at the end of its DAG run.

    :param states: states of the tasks that used it
    """
    return cleanup == "always" or (cleanup == "on_exception" and bool(_FAILED & set(states)))
