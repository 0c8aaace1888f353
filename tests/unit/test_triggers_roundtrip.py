"""Every trigger of the package is made again, equal, from what it keeps: Airflow stores that, and a triggerer may be another machine."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from typing import Any

import pytest
from airflow.models.trigger import Trigger
from airflow.serialization.decoders import smart_decode_trigger_kwargs
from airflow.serialization.encoders import encode_trigger
from airflow.triggers.base import BaseTrigger
from hypothesis import given
from hypothesis import strategies as st

import operators

text = st.text(max_size=20)
maybe = st.none() | text
seconds = st.floats(0, 1e10, allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text.filter(lambda key: not key.startswith("__")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
facts = st.dictionaries(st.text("abc_", min_size=1).filter(lambda key: not key.startswith("__")), plain, max_size=4)

# The arguments of each trigger. One that is new needs a line here, or the test fails.
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "operators.compute.triggers.RayJobTrigger": {
        "submission_id": text, "ray_conn_id": maybe, "address": maybe, "token_path": maybe, "deadline": st.none() | seconds,
        "poll_s": seconds, "unreachable_s": seconds, "stream_logs": st.booleans(),
    },
    "operators.compute.cluster.triggers.KubeRayTrigger": {
        "name": text, "namespace": text, "kubernetes_conn_id": text, "poll_s": seconds, "deadline": seconds,
    },
    "operators.registry.triggers.ModelEventTrigger": {
        "model": text, "asset": text, "kinds": st.lists(st.sampled_from(["version_created", "alias_set", "alias_removed"])),
        "aliases": st.none() | st.lists(text, max_size=3), "foreign_only": st.booleans(), "from_start": st.booleans(),
        "poll_s": seconds, "mlflow_conn_id": maybe,
    },
    "operators.registry.triggers.ModelVersionTrigger": {"wanted": facts, "poll_s": seconds, "mlflow_conn_id": maybe},
    "operators.rollout.triggers.DeployTrigger": {"model": text, "version": text, "deadline": seconds},
    "operators.rollout.steps.triggers.JudgeTrigger": {"spec": text, "watched": facts, "until": st.none() | seconds},
    "operators.rollout.approval.triggers.ApprovalTrigger": {"spec": text, "watched": facts},
}  # fmt: skip
# What the trigger of Airflow's that one is made from takes beside.
FIXED: dict[str, dict[str, Any]] = {
    "operators.rollout.approval.triggers.ApprovalTrigger": {
        "ti_id": "a", "options": ["Approve"], "params": {}, "timeout_datetime": None,
    },
}  # fmt: skip


def triggers() -> dict[str, type[BaseTrigger]]:
    """Every trigger that the package defines, by its path."""
    for module in pkgutil.walk_packages(operators.__path__, "operators."):
        if "trigger" in module.name.rpartition(".")[2] or "sensor" in module.name:
            importlib.import_module(module.name)
    found, classes = {}, list(BaseTrigger.__subclasses__())
    while classes:
        kind = classes.pop()
        classes += kind.__subclasses__()
        if kind.__module__.startswith("operators.") and not inspect.isabstract(kind):
            found[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return found


FOUND = triggers()


def test_every_trigger_is_tried() -> None:
    assert set(ARGUMENTS) == set(FOUND)
    for path, kind in FOUND.items():
        taken = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
        assert set(ARGUMENTS[path]) == taken, f"the arguments of {path}"


@pytest.mark.parametrize("path", sorted(ARGUMENTS))
@given(data=st.data())
def test_a_trigger_is_made_again_from_what_it_keeps(path: str, data: st.DataObject) -> None:
    kind = FOUND[path]
    arguments = data.draw(st.fixed_dictionaries(ARGUMENTS[path]))
    where, kept = kind(**arguments, **FIXED.get(path, {})).serialize()
    assert where == path
    assert {name: kept[name] for name in arguments} == arguments
    # As it is, as Airflow's database has it, and as a DAG with a watcher has it.
    for stored in (kept, Trigger._decrypt_kwargs(Trigger.encrypt_kwargs(kept)), watched(kind(**kept))):
        again = kind(**{name: smart_decode_trigger_kwargs(value) for name, value in stored.items()})
        assert again.serialize() == (path, kept)


def watched(trigger: BaseTrigger) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(encode_trigger(trigger)))["kwargs"]
    return kept
