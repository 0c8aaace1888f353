"""A Ray cluster for the length of a DAG run: a setup task makes it, a teardown task removes it.

::

    ray = StartLocalRayOperator(task_id="ray", num_cpus=2)
    with ray.scope(cleanup="always"):
        SubmitRayJobOperator(task_id="job", entrypoint="python job.py", **ray.connection)
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args

from airflow.sdk import BaseOperator

from operators.compute.cluster.policy import Cleanup, KubeRayCluster, address, is_deleted
from operators.compute.cluster.triggers import KubeRayTrigger
from operators.compute.hook import DEFAULT_CONN_ID, RayHook
from operators.core.errors import ConfigurationError, ServiceError
from operators.core.explain_error import explain


class _Start(BaseOperator):
    """Base of the operators that start a cluster. `scope` creates the task that removes it."""

    def scope(self, *, cleanup: Cleanup = "always", **kwargs: Any) -> Any:
        """Make this task a setup task, and return its teardown task, to be used with ``with`` around the tasks
        between.

        :param cleanup: when the cluster is removed: ``always``, ``never``, or ``on_exception``: only if a task
            between has failed
        :param kwargs: arguments of the teardown task; its ``task_id`` is ``<this task's>_stop`` by default
        :returns: the teardown task
        """
        task_id = kwargs.pop("task_id", f"{self.task_id.rpartition('.')[2]}_stop")
        stop = self._stop_operator(task_id=task_id, cleanup=cleanup, **kwargs)
        return stop.as_teardown(setups=self)

    @abstractmethod
    def _stop_operator(self, **kwargs: Any) -> _Stop:
        """Return the task that removes the cluster."""

    def _pulled(self, key: str) -> str:
        return f"{{{{ ti.xcom_pull(task_ids='{self.task_id}')['{key}'] }}}}"


class _Stop(BaseOperator):
    """Base of the operators that remove a cluster, if its cleanup says so."""

    def __init__(self, *, cleanup: Cleanup = "always", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if cleanup not in get_args(Cleanup):
            raise ConfigurationError(f"cleanup is {cleanup!r}; write one of {', '.join(get_args(Cleanup))}")
        self.cleanup = cleanup

    def execute(self, context: Any) -> bool:
        """Remove the cluster; return whether it was removed."""
        ti = context["ti"]
        states: list[str | None] = []
        if self.cleanup == "on_exception":
            by_run = ti.get_task_states(dag_id=ti.dag_id, task_ids=sorted(self.upstream_task_ids), run_ids=[ti.run_id])
            states = [str(state) for of_run in by_run.values() for state in of_run.values()]
        if not is_deleted(self.cleanup, states):
            self.log.info("the cluster is kept, because cleanup is %s", self.cleanup)
            return False
        self.remove(context)
        return True

    @abstractmethod
    def remove(self, context: Any) -> None:
        """Remove the cluster."""


class StartLocalRayOperator(_Start):
    """Start a Ray cluster on the worker's own machine, on the loopback interface and with its own token.

    It is meant for development and for machines that run all tasks, as with LocalExecutor: the tasks that use the
    cluster must run on the same machine as the same user. The cluster outlives the task and its worker; the teardown
    task of `scope` ends it.

    :param num_cpus: CPU cores that the cluster offers. None: all of the machine
    :param num_gpus: GPUs that the cluster offers. None: all of the machine
    :param object_store_bytes: memory of the cluster's object store
    :param env: environment variables of the cluster's processes (templated)
    :returns: ``address``, ``token_path`` and ``folder``
    :raises ServiceError: the cluster did not start; a retry can help
    """

    template_fields: Sequence[str] = ("env",)

    def __init__(
        self,
        *,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        object_store_bytes: int = 200 * 1024 * 1024,
        env: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.object_store_bytes = object_store_bytes
        self.env = env

    @property
    def connection(self) -> dict[str, Any]:
        """Arguments for `SubmitRayJobOperator` and ``@task.ray`` that make them use this cluster:
        ``**ray.connection``.
        """
        return {
            "ray_conn_id": None,
            "address": self._pulled("address"),
            "token_path": self._pulled("token_path"),
        }

    def execute(self, context: Any) -> dict[str, str]:
        """Start the cluster, or find the one that an earlier try started."""
        from operators.compute.cluster import local

        ti = context["ti"]
        names = "\0".join([ti.dag_id, ti.run_id, ti.task_id, str(ti.map_index)])
        folder = local.folder_for(hashlib.sha256(names.encode()).hexdigest()[:12])
        cluster = local.start(
            folder,
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            object_store_bytes=self.object_store_bytes,
            env=self.env,
        )
        self.log.info("the Ray cluster is ready at %s", cluster.address)
        return {"address": cluster.address, "token_path": cluster.token_path, "folder": str(folder)}

    def _stop_operator(self, **kwargs: Any) -> _Stop:
        return StopLocalRayOperator(folder=self._pulled("folder"), **kwargs)


class StopLocalRayOperator(_Stop):
    """End every process of a cluster that `StartLocalRayOperator` started, and delete its folder.

    :param folder: what the start task returned as ``folder`` (templated)
    :param cleanup: ``always``, ``never``, or ``on_exception``: only if a task that used the cluster has failed
    :returns: whether the cluster was removed
    """

    template_fields: Sequence[str] = ("folder",)

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    def remove(self, context: Any) -> None:
        """End the processes, and delete the folder."""
        from pathlib import Path

        from operators.compute.cluster import local

        local.stop(Path(self.folder))


class CreateKubeRayClusterOperator(_Start):
    """Create a Ray cluster on Kubernetes with KubeRay, and wait, deferred, until it is ready.

    Needs the extra ``kubernetes`` and, in the Kubernetes cluster, the KubeRay operator. The token of ``ray_conn_id``
    is copied into a Kubernetes secret; clients of the Ray cluster need it.

    :param cluster: the cluster, with the keys of `KubeRayCluster`. The name is templated: ``train-{{ ts_nodash |
        lower }}`` gives each run a cluster of its own
    :param kubernetes_conn_id: Airflow connection of type ``kubernetes``
    :param ray_conn_id: Airflow connection of type ``ray`` with the token as its password
    :param timeout: longest wait for the cluster to be ready. Allow for nodes that have to be added first
    :param poll_s: seconds between two checks
    :returns: ``address``, ``name`` and ``namespace``
    :raises ConfigurationError: ``cluster`` is wrong, or the connection has no token
    :raises ServiceError: the cluster was not ready in time. It is deleted, and a retry creates another
    """

    template_fields: Sequence[str] = ("cluster_name",)

    def __init__(
        self,
        *,
        cluster: Mapping[str, Any],
        kubernetes_conn_id: str = "kubernetes_default",
        ray_conn_id: str = DEFAULT_CONN_ID,
        timeout: timedelta = timedelta(minutes=30),
        poll_s: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster = dict(cluster)
        self.cluster_name = str(self.cluster.get("name", ""))
        self.kubernetes_conn_id = kubernetes_conn_id
        self.ray_conn_id = ray_conn_id
        self.timeout = timeout
        self.poll_s = poll_s
        if "{{" not in self.cluster_name:
            self._described()  # a mistake is an import error of the DAG, not a failure at night

    @property
    def connection(self) -> dict[str, Any]:
        """Arguments for `SubmitRayJobOperator` and ``@task.ray`` that make them use this cluster:
        ``**ray.connection``.
        """
        return {"ray_conn_id": self.ray_conn_id, "address": self._pulled("address")}

    def execute(self, context: Any) -> Any:
        """Create the cluster, or find the one that an earlier try created."""
        from operators.compute.cluster.kuberay import KubeRay

        described = self._described()
        token = RayHook(self.ray_conn_id).resolve().token
        if not token:
            raise ConfigurationError(
                f"the connection {self.ray_conn_id!r} has no token. Without one anybody who reaches the Ray cluster can run code "
                "on it. Write a random text of 32 characters or more into its password"
            )
        kuberay = KubeRay(self.kubernetes_conn_id)
        kuberay.create(described, token)
        self.log.info("RayCluster %s/%s was created; waiting until it is ready", described.namespace, described.name)
        self.defer(
            trigger=KubeRayTrigger(
                name=described.name,
                namespace=described.namespace,
                kubernetes_conn_id=self.kubernetes_conn_id,
                poll_s=self.poll_s,
                deadline=time.time() + self.timeout.total_seconds(),
            ),
            method_name="resume",
            kwargs={"name": described.name, "namespace": described.namespace},
        )

    def resume(self, context: Any, event: Mapping[str, Any], name: str, namespace: str) -> dict[str, str]:
        """Return where the cluster is. Delete it if it did not become ready."""
        if not event["ready"]:
            from operators.compute.cluster.kuberay import KubeRay

            KubeRay(self.kubernetes_conn_id).delete(name, namespace)
            raise ServiceError(f"RayCluster {namespace}/{name} did not become ready and was deleted: {event['reason']}")
        return {"address": address(name, namespace), "name": name, "namespace": namespace}

    def _described(self) -> KubeRayCluster:
        from pydantic import ValidationError

        try:
            return KubeRayCluster.model_validate({**self.cluster, "name": self.cluster_name})
        except ValidationError as error:
            raise ConfigurationError(
                f"the cluster of {self.task_id} is wrong: {explain(error, KubeRayCluster)}"
            ) from None

    def _stop_operator(self, **kwargs: Any) -> _Stop:
        return DeleteKubeRayClusterOperator(
            cluster_name=self._pulled("name"),
            namespace=self._pulled("namespace"),
            kubernetes_conn_id=self.kubernetes_conn_id,
            **kwargs,
        )


class DeleteKubeRayClusterOperator(_Stop):
    """Delete a RayCluster and its secret. If there is no such cluster, the task succeeds.

    :param cluster_name: name of the RayCluster (templated)
    :param namespace: Kubernetes namespace of the RayCluster (templated)
    :param kubernetes_conn_id: Airflow connection of type ``kubernetes``
    :param cleanup: ``always``, ``never``, or ``on_exception``: only if a task that used the cluster has failed
    :returns: whether the cluster was deleted
    """

    template_fields: Sequence[str] = ("cluster_name", "namespace")

    def __init__(
        self, *, cluster_name: str, namespace: str, kubernetes_conn_id: str = "kubernetes_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_name = cluster_name
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id

    def remove(self, context: Any) -> None:
        """Delete the cluster."""
        from operators.compute.cluster.kuberay import KubeRay

        KubeRay(self.kubernetes_conn_id).delete(self.cluster_name, self.namespace)
