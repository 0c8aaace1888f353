"""Clusters of a DAG run's own: one on this machine, and one that KubeRay makes."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from operators import CreateKubeRayClusterOperator, StartLocalRayOperator, SubmitRayJobOperator

# Connections that the test makes.
KUBERNETES, RAY = "kubernetes_alone", "ray_alone"
# On a busy machine Airflow may lose the try of a task that is resumed just after it was deferred; the next try goes on with the job.
TRIES = {"retries": 2, "retry_delay": timedelta(seconds=1)}


@dag(schedule=None, catchup=False, default_args=TRIES)
def ray_local() -> None:
    ray = StartLocalRayOperator(task_id="ray", num_cpus=1)
    with ray.scope(cleanup="always"):
        SubmitRayJobOperator(
            task_id="job",
            entrypoint="""echo '::taxiway:: {"result": 7}'""",
            deferrable=True,
            poll_s=1.0,
            **ray.connection,
        )


@dag(schedule=None, catchup=False, default_args=TRIES)
def kuberay_alone() -> None:
    @task
    def used(address: str) -> str:
        return address

    ray = CreateKubeRayClusterOperator(
        task_id="ray",
        cluster={
            "name": "alone",
            "namespace": "ml",
            "image": "rayproject/ray:2.60.0-py311",
            "workers": [{"name": "cpu", "replicas": 1}],
        },
        kubernetes_conn_id=KUBERNETES,
        ray_conn_id=RAY,
        poll_s=1.0,
    )
    with ray.scope(cleanup="always"):
        used(ray.connection["address"])


ray_local()
kuberay_alone()
