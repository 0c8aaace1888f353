from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from operators.provider import get_provider_info


def test_airflow_finds_the_provider_by_its_entry_point() -> None:
    (found,) = (e for e in entry_points(group="apache_airflow_provider") if e.value.startswith("operators."))
    assert found.load()() == get_provider_info()


def test_it_follows_airflows_schemas() -> None:
    import airflow

    folder = Path(str(airflow.__file__)).parent
    info = get_provider_info()
    jsonschema.validate(info, json.loads((folder / "provider_info.schema.json").read_text()))
    authors = json.loads((folder / "provider.yaml.schema.json").read_text())
    for name in ("connection-types", "task-decorators", "extra-links"):
        jsonschema.validate(info[name], authors["properties"][name])


def test_everything_that_it_names_exists() -> None:
    info = get_provider_info()
    for kind in ("operators", "triggers", "sensors", "hooks"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    named = [c["hook-class-name"] for c in info["connection-types"]] + info["extra-links"]
    for path in [*named, *(d["class-name"] for d in info["task-decorators"])]:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


@pytest.mark.parametrize("kind", ["ray", "mlflow"])
def test_connections_have_their_fields_in_airflows_form(kind: str) -> None:
    hook = ProvidersManagerTaskRuntime().hooks[kind]
    assert hook is not None
    assert hook.hook_class_name.startswith("operators.")
    manager = ProvidersManager()
    behaviour = manager.field_behaviours[kind]
    assert "extra" in behaviour["hidden_fields"]
    assert any(name.startswith(f"extra__{kind}__") for name in manager.connection_form_widgets)


def test_task_ray_is_a_decorator_and_the_links_are_known() -> None:
    from airflow.sdk import task

    assert callable(task.ray)
    assert "operators.compute.links.RayJobLink" in ProvidersManager().extra_links_class_names
