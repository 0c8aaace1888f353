"""The copy that a drill breaks: the champion under a name of its own, made for one drill and removed after it."""

from __future__ import annotations

import uuid

from operators.core.errors import RejectedError
from operators.core.frozen import Frozen
from operators.core.rows import AbandonedRow, DrillRow
from operators.core.spec import ModelSpec
from operators.core.storage import Storage
from operators.drills.cluster import Cluster
from operators.drills.policy import copy_spec
from operators.drills.record import Drill, Drills
from operators.registry.client import CHAMPION, ModelVersion
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic

SMOKE_KEY, SPEC, MADE_BY = "taxiway.smoke_key", "taxiway.spec", "taxiway.made_by"
_ACTOR = "drill"


class Original(Frozen):
    """The version that is copied.

    :param spec: the copy's, JSON
    """

    version: str
    uri: str
    smoke_key: str
    spec: str


class Cast(Frozen):
    """A copy that is ready for its drill; travels as JSON.

    :param stable: version of the copy that has the traffic
    :param canary: version of the copy that will be released
    """

    drill: Drill
    original: Original
    stable: str
    canary: str

    @property
    def spec(self) -> ModelSpec:
        """The copy's spec."""
        return ModelSpec.from_json(self.original.spec)


def original(traffic: ModelTraffic) -> Original:
    """Return what a copy of a model is made of.

    :raises RejectedError: the model cannot be drilled; the message says why, and what to do
    """
    model = traffic.model
    champion = traffic.registry.alias(model, CHAMPION)
    if champion is None:
        raise RejectedError(f"{model} has no champion to copy; release a version first")
    missing = [tag for tag in (SMOKE_KEY, SPEC) if not champion.tags.get(tag)]
    if missing:
        raise RejectedError(
            f"version {champion.version} of {model} has no tag {' and no tag '.join(missing)}: its copy would have no "
            f"requests, or no spec. Release a version that {model}.train has made"
        )
    spec = copy_spec(ModelSpec.from_json(champion.tags[SPEC]))
    return Original(version=champion.version, uri=champion.uri, smoke_key=champion.tags[SMOKE_KEY], spec=spec.to_json())


def require_ours(traffic: ModelTraffic) -> None:
    """Do nothing, unless a model of somebody else has the name of the copy.

    :param traffic: the copy's
    :raises RejectedError: it has versions that were not made by a drill
    """
    others = [v.version for v in traffic.registry.versions(traffic.model) if v.tags.get(MADE_BY) != _ACTOR]
    if others:
        raise RejectedError(
            f"{traffic.model} is a model of its own (version {others[0]} was not made by a drill); a drill needs that name"
        )


def require_quiet(traffic: ModelTraffic, copy_name: str) -> None:
    """Do nothing, unless a release needs the agent now: all models share it.

    :raises RejectedError: a release is under way
    """
    routes = traffic.agent.routes()
    busy = [model for model, route in routes.items() if (route.weight_now_bp or route.shadow) and model != copy_name]
    if busy:
        raise RejectedError(
            f"a release of {busy[0]} is under way, and there is one agent for all; drill dead_agent later"
        )


def register(traffic: ModelTraffic, cluster: Cluster, drill: Drill, original: Original) -> Cast:
    """Register the copy's two versions, and begin to deploy them.

    :param traffic: the copy's
    :raises ServiceError: the cluster could not log the model
    """
    spec = ModelSpec.from_json(original.spec)

    def add(role: str, source: str) -> ModelVersion:
        # Each try has versions of its own: the edge tells releases apart by the canary's version.
        tags = {MADE_BY: _ACTOR, "taxiway.drill": drill.drill_id, "taxiway.role": role, SPEC: original.spec}
        return traffic.registry.register(spec.name, source, "", key=f"drill/{uuid.uuid4()}", tags=tags)

    stable = add("stable", original.uri)
    traffic.agent.deploy(spec, stable.version, stable.uri)
    source = original.uri
    if drill.fault == "bad_canary":
        cluster.start("log_faulty", champion=original.uri, experiment=spec.name)
        source = cluster.result("log_faulty")["model_uri"]
    canary = add("canary", source)
    traffic.agent.deploy(spec, canary.version, canary.uri)
    return Cast(drill=drill, original=original, stable=stable.version, canary=canary.version)


def remove(traffic: ModelTraffic, storage: Storage) -> None:
    """Remove a copy: route, applications, aliases, quarantine, versions, predictions. Harmless if there is nothing.

    :param traffic: the copy's
    """
    model, ledger = traffic.model, traffic.ledger
    ManualMoves(traffic).withdraw(_ACTOR, "the drill is over")
    holder = ledger.holder(model)
    if holder is not None:  # a drill that was killed before it had deployed anything
        ledger.finish(model, holder, AbandonedRow(by=_ACTOR, why="the drill is over"))
    for rejected in traffic.quarantine.standing():  # the next drill releases the same model
        key = f"{model}/{rejected.version}/lifted by a drill"
        traffic.quarantine.lift(rejected.version, by=_ACTOR, reason="it was rejected in a drill", key=key)
    for version in traffic.registry.versions(model):
        traffic.registry.delete_version(model, version.version)
    for key in storage.list(f"predictions/{model}"):
        storage.delete(key)


def clean_up(traffic: ModelTraffic, drills: Drills, drill: Drill, storage: Storage, *, by: str) -> DrillRow:
    """End a drill at whatever point it is, and remove everything that it made.

    :param traffic: the copy's
    :param by: who cleans up
    :returns: the drill's result
    """
    why = "it ended before it had a result: a task failed, or was killed"
    result = drills.result(drill) or drills.record(drill, passed=False, problems=[why], facts={})
    Cluster(drill).stop()
    require_ours(traffic)
    remove(traffic, storage)
    drills.cleaned(drill, by)
    return result
