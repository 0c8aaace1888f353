"""What Airflow's provider manager reads: connection types, decorators, links. Every Airflow process imports it: keep it light."""

from __future__ import annotations

from typing import Any

_STAGES = {
    "Ray": ("compute", ("operators", "module_job", "cluster.operators"), ("triggers", "cluster.triggers"), ()),
    "MLflow": ("registry", ("operators",), ("triggers",), ("sensors",)),
    "Great Expectations": ("validation", ("operators", "gx.operators", "snapshots.operators"), (), ()),
}
_URLS = {
    "Ray": "https://docs.ray.io/",
    "MLflow": "https://mlflow.org/docs/latest/",
    "Great Expectations": "https://docs.greatexpectations.io/",
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "taxiway",
        "name": "Taxiway",
        "description": "Ray jobs, MLflow's registry and Great Expectations as Airflow tasks, sensors and triggers.",
        "integrations": [
            {"integration-name": name, "external-doc-url": url, "tags": ["software"]} for name, url in _URLS.items()
        ],
        "operators": _modules(1),
        "triggers": _modules(2),
        "sensors": _modules(3),
        "hooks": [
            {"integration-name": "Ray", "python-modules": ["operators.compute.hook"]},
            {"integration-name": "MLflow", "python-modules": ["operators.registry.hook"]},
        ],
        "connection-types": [_RAY, _MLFLOW],
        "task-decorators": [{"name": "ray", "class-name": "operators.compute.decorators.ray_task"}],
        "extra-links": [
            "operators.compute.links.RayJobLink",
            "operators.registry.links.ModelVersionLink",
            "operators.validation.links.DataDocsLink",
        ],
    }


def _modules(place: int) -> list[dict[str, Any]]:
    return [
        {"integration-name": name, "python-modules": [f"operators.{stage[0]}.{module}" for module in stage[place]]}
        for name, stage in _STAGES.items()
        if stage[place]
    ]


def _field(label: str, description: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **more}}


_VERIFY = _field("Verify certificates", "Switch it off for tests only.", "boolean", default=True)
_CA_FILE = _field("CA file", "Path on workers and triggerers of a file with the certificates to trust.")
_RAY: dict[str, Any] = {
    "connection-type": "ray",
    "hook-class-name": "operators.compute.hook.RayHook",
    "hook-name": "Ray",
    "conn-fields": {
        "tls": _field("TLS", "Use https if the host has no scheme.", "boolean", default=False),
        "verify": _VERIFY,
        "ca_path": _CA_FILE,
        "token_path": _field(
            "Token file",
            "Path on workers and triggerers of a file with the cluster's token, in place of the token above.",
        ),
        "dashboard_url": _field(
            "Dashboard for browsers", "Address of the dashboard for people, if it is not the host above.", format="url"
        ),
    },
    "ui-field-behaviour": {
        "hidden-fields": ["login", "schema", "extra"],
        "relabeling": {"host": "Dashboard host", "port": "Dashboard port", "password": "Token"},
        "placeholders": {"host": "http://ray-head", "port": "8265", "password": "RAY_AUTH_TOKEN of the cluster"},
    },
}
_MLFLOW: dict[str, Any] = {
    "connection-type": "mlflow",
    "hook-class-name": "operators.registry.hook.MlflowHook",
    "hook-name": "MLflow",
    "conn-fields": {
        "tls_verify": _VERIFY,
        "tls_ca_path": _CA_FILE,
    },
    "ui-field-behaviour": {
        "hidden-fields": ["extra"],
        "relabeling": {"schema": "Scheme", "login": "User", "password": "Password, or token without a user"},
        "placeholders": {"host": "mlflow.example.com", "port": "5000", "schema": "https"},
    },
}
