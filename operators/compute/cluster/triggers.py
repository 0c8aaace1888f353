"""Wait for a KubeRay cluster without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from airflow.triggers.base import TriggerEvent

from operators.core.errors import ServiceError, TaxiwayError
from operators.triggers import KeptTrigger


@dataclass(kw_only=True, eq=False, repr=False)
class KubeRayTrigger(KeptTrigger):
    """Fire ``{"ready": …, "reason": …}`` once a RayCluster is ready, has failed for good, or took too long.

    :param name: name of the RayCluster
    :param namespace: Kubernetes namespace of the RayCluster
    :param kubernetes_conn_id: Airflow connection of type ``kubernetes``
    :param poll_s: seconds between two checks
    :param deadline: Unix time in seconds by which the cluster must be ready
    """

    name: str
    namespace: str
    kubernetes_conn_id: str
    poll_s: float
    deadline: float

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the cluster is ready."""
        logged = ""
        while True:
            ready, reason, final = await asyncio.to_thread(self._look)
            if reason != logged:
                self.log.info("RayCluster %s/%s: %s", self.namespace, self.name, reason)
                logged = reason
            if ready or final or time.time() > self.deadline:
                yield TriggerEvent({"ready": ready, "reason": reason})
                return
            await asyncio.sleep(self.poll_s)

    async def on_kill(self) -> None:
        """Delete the cluster when a person ends the task."""
        from operators.compute.cluster.kuberay import KubeRay

        await asyncio.to_thread(lambda: KubeRay(self.kubernetes_conn_id).delete(self.name, self.namespace))

    def _look(self) -> tuple[bool, str, bool]:
        """Return whether the cluster is ready, its state in words, and whether it never will be. Runs in a thread: it blocks."""
        from operators.compute.cluster.kuberay import KubeRay
        from operators.compute.cluster.policy import readiness

        try:
            ready, reason = readiness(KubeRay(self.kubernetes_conn_id).get(self.name, self.namespace))
        except ServiceError as error:
            return False, str(error), False
        except (TaxiwayError, ValueError) as error:
            return False, str(error), True
        return ready, reason, False
