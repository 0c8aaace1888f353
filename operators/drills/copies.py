"""The copy that a drill breaks: the champion's model under a name of its own, made for one drill and taken away after it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from operators.core.errors import RejectedError
from operators.core.spec import ModelSpec
from operators.drills.cluster import Cluster
from operators.drills.policy import copy_spec
from operators.drills.record import Drill, Drills
from operators.registry.client import CHAMPION, ModelVersion

if TYPE_CHECKING:
    from operators.core.storage import Storage
    from operators.rollout.controller import Controller

SMOKE_KEY, SPEC, MADE_BY = "taxiway.smoke_key", "taxiway.spec", "taxiway.made_by"
_ACTOR = "drill"


class Original(BaseModel):
    """The version that is copied.

    :param spec: the copy's, JSON
    """

    model_config = ConfigDict(frozen=True)

    version: str
    uri: str
    smoke_key: str
    spec: str


class Cast(BaseModel):
    """A copy that is ready for its drill; travels as JSON.

    :param stable: version of the copy that has the traffic
    :param canary: version of the copy that will be released
    """

    model_config = ConfigDict(frozen=True)

    drill: Drill
    original: Original
    stable: str
    canary: str

    @property
    def spec(self) -> ModelSpec:
        """The copy's spec."""
        return ModelSpec.from_json(self.original.spec)


def original(controller: Controller) -> Original:
    """Find what can be copied of a model.

    :raises RejectedError: the model cannot be drilled; says why, and how to mend it
    """
    model = controller.model
    champion = controller.registry.alias(model, CHAMPION)
    if champion is None:
        raise RejectedError(f"{model} has no champion to copy; release a version first")
    missing = [tag for tag in (SMOKE_KEY, SPEC) if not champion.tags.get(tag)]
    if missing:
        raise RejectedError(
            f"version {champion.version} of {model} has no tag {' and no tag '.join(missing)}: there are no rows to load "
            f"its copy with, or no spec to serve it by. Release a version that {model}.train has made"
        )
    spec = copy_spec(ModelSpec.from_json(champion.tags[SPEC]))
    return Original(version=champion.version, uri=champion.uri, smoke_key=champion.tags[SMOKE_KEY], spec=spec.to_json())


def require_ours(controller: Controller) -> None:
    """Keep away from a model that only happens to be called as a copy would be.

    :param controller: the copy's
    :raises RejectedError: it has versions that no drill has made
    """
    others = [v.version for v in controller.registry.versions(controller.model) if v.tags.get(MADE_BY) != _ACTOR]
    if others:
        raise RejectedError(
            f"{controller.model} is a model of its own (version {others[0]} was made by no drill); a drill needs that name"
        )


def register(controller: Controller, cluster: Cluster, drill: Drill, original: Original) -> Cast:
    """Register the copy's two versions, and begin to deploy them.

    :param controller: the copy's
    :raises ServiceError: the cluster did not do its part
    """
    spec = ModelSpec.from_json(original.spec)

    def add(role: str, source: str) -> ModelVersion:
        # Each try has versions of its own: the edge tells releases apart by the canary's version.
        tags = {MADE_BY: _ACTOR, "taxiway.drill": drill.drill_id, "taxiway.role": role, SPEC: original.spec}
        return controller.registry.register(spec.name, source, "", key=f"drill/{uuid.uuid4()}", tags=tags)

    stable = add("stable", original.uri)
    controller.agent.deploy(spec, stable.version, stable.uri)
    source = original.uri
    if drill.fault == "bad_canary":
        cluster.start("log_faulty", champion=original.uri, experiment=spec.name)
        source = cluster.result("log_faulty")["model_uri"]
    canary = add("canary", source)
    controller.agent.deploy(spec, canary.version, canary.uri)
    return Cast(drill=drill, original=original, stable=stable.version, canary=canary.version)


def remove(controller: Controller, storage: Storage) -> None:
    """Take a copy away: route, applications, aliases, quarantine, versions, predictions. Harmless where there is nothing.

    :param controller: the copy's
    """
    model, ledger = controller.model, controller.ledger
    controller.withdraw(_ACTOR, "the drill is over")
    holder = ledger.holder(model)
    if holder is not None:  # it was killed before it had anything to take out
        ledger.finish(model, holder, "abandoned", {"by": _ACTOR, "why": "the drill is over"})
    for rejected in controller.quarantine.standing():  # the same model is what the next drill releases
        key = f"{model}/{rejected.version}/lifted by a drill"
        controller.quarantine.lift(rejected.version, by=_ACTOR, reason="it was rejected in a drill", key=key)
    for version in controller.registry.versions(model):
        controller.registry.delete_version(model, version.version)
    for key in storage.list(f"predictions/{model}"):
        storage.delete(key)


def clean_up(controller: Controller, drills: Drills, drill: Drill, storage: Storage, *, by: str) -> dict[str, object]:
    """End a drill, whatever it has come to, and leave nothing of it.

    :param controller: the copy's
    :param by: who cleans up
    :returns: the drill's result
    """
    why = "it ended before it had a result: a task failed, or was killed"
    result = drills.result(drill) or drills.record(drill, passed=False, problems=[why], facts={}).payload
    Cluster(drill).stop()
    require_ours(controller)
    remove(controller, storage)
    drills.cleaned(drill, by)
    return result
