"""The tasks of a drill: claim, prepare, drill, and whatever becomes of them, clean up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from operators.core.errors import RejectedError, TaxiwayError
from operators.core.loader import load_specs
from operators.core.settings import Settings, storage_url
from operators.core.spec import ModelSpec
from operators.core.spec_operations import FAULTS
from operators.core.storage import Storage
from operators.drills import copies
from operators.drills.cluster import Cluster
from operators.drills.copies import Cast
from operators.drills.load_generator import Load, single_rows
from operators.drills.policy import copy_name, longest_ago, pass_criteria, problems
from operators.drills.record import Drill, Drills
from operators.drills.scene import Scene, endpoint
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.notifiers import tell
from operators.rollout.operators import DEPLOY_TIMEOUT_S, release_moves_of, require_running
from operators.rollout.triggers import DeployTrigger

if TYPE_CHECKING:
    from operators.core.ledger import Ledger


def alive(context: Any) -> Callable[[Drill], bool]:
    """Return a function that asks Airflow whether the run of a drill is under way."""

    def ask(drill: Drill) -> bool:
        under_way = ["queued", "running"]
        return bool(context["ti"].get_dr_count(dag_id=drill.dag_id, run_ids=[drill.run_id], states=under_way))

    return ask


def spec_of(model: str) -> ModelSpec:
    """Return the spec of a model.

    :raises AirflowFailException: there is none
    """
    specs = {spec.name: spec for spec in load_specs()[0]}
    if model not in specs:
        raise AirflowFailException(f"there is no spec of {model!r}; there are: {', '.join(sorted(specs)) or 'none'}")
    return specs[model]


class ClaimDrillOperator(BaseOperator):
    """Choose the fault, record that the drill begins, and clean up what earlier drills have left.

    :param model: name of the model that is copied (templated)
    :param faults: faults to choose from; the one whose last drill is longest ago is taken (templated)
    :returns: ``drill``, and ``original``: what is copied
    :raises AirflowFailException: the model cannot be drilled now; the message says why
    """

    template_fields: Sequence[str] = ("model", "faults")

    def __init__(self, *, model: str, faults: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.faults = faults

    def execute(self, context: Any) -> dict[str, Any]:
        """Check that the drill can run, choose the fault, and record the start."""
        spec_of(self.model)
        chosen = [fault for fault in FAULTS if fault in self.faults]
        if len(chosen) != len(set(self.faults)) or not chosen:
            raise AirflowFailException(f"unknown fault in {list(self.faults)}; the faults are: {', '.join(FAULTS)}")
        traffic = _traffic(self.model)
        drills = Drills(traffic.ledger, self.model)
        try:
            original = copies.original(traffic)
            fault = longest_ago(chosen, drills.faults())
            name = copy_name(self.model)
            copy = _traffic(name)
            copies.require_ours(copy)
            if fault == "dead_agent":
                copies.require_quiet(traffic, name)
        except RejectedError as error:
            raise AirflowFailException(str(error)) from error
        run = {"dag_id": context["dag"].dag_id, "run_id": context["run_id"]}
        for mine in drills.unfinished():  # an earlier try of this run that was cleared or killed
            if {"dag_id": mine.dag_id, "run_id": mine.run_id} == run:
                copies.clean_up(copy, drills, mine, _storage(), by="the same run, started again")
        drill = drills.start(self.model, name, fault, **run)
        self._clear_the_way(drills, drill, copy, alive(context))
        self.log.info("%s: %s of %s, a copy of version %s", drill.drill_id, fault, name, original.version)
        return {"drill": drill.model_dump(mode="json"), "original": original.model_dump(mode="json")}

    def _clear_the_way(self, drills: Any, drill: Drill, copy: ModelTraffic, is_alive: Callable[[Drill], bool]) -> None:
        """Clean up after earlier drills; give way to one that is under way."""
        storage = _storage()
        for other in drills.unfinished():
            if other.seq >= drill.seq:
                continue
            if is_alive(other):
                drills.cleaned(drill, "itself, before it had begun")
                raise AirflowFailException(
                    f"a release of {drill.copy_name} is under way: {other.fault}, by run {other.run_id} of {other.dag_id}; "
                    "start this drill again when it has ended"
                )
            copies.clean_up(copy, drills, other, storage, by=drill.drill_id)
        copies.remove(copy, storage)


class _OfClaim(BaseOperator):
    template_fields: Sequence[str] = ("claimed",)

    def __init__(self, *, claimed: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claimed = claimed


class PrepareDrillOperator(_OfClaim):
    """Create the copy: deploy both of its versions, and give one of them the traffic.

    For a bad canary the task keeps its worker for a quarter of a minute, while the cluster logs the faulty model. It
    waits for the deployments without a worker.

    :param claimed: what `ClaimDrillOperator` returned (templated)
    :returns: the copy
    """

    def execute(self, context: Any) -> None:
        """Begin to deploy; what a killed try has left is removed first."""
        drill = Drill.model_validate(self.claimed["drill"])
        copy = _traffic(drill.copy_name)
        copies.remove(copy, _storage())
        original = copies.Original.model_validate(self.claimed["original"])
        cast = copies.register(copy, Cluster(drill), drill, original)
        self._wait(cast.model_dump(mode="json"), [cast.stable, cast.canary])

    def _wait(self, cast: dict[str, Any], versions: list[str]) -> None:
        deadline = time.time() + DEPLOY_TIMEOUT_S
        trigger = DeployTrigger(model=cast["drill"]["copy_name"], version=versions[0], deadline=deadline)
        self.defer(trigger=trigger, method_name="resume", kwargs={"cast": cast, "versions": versions})

    def resume(self, context: Any, event: Mapping[str, str], cast: dict[str, Any], versions: list[str]) -> Any:
        """Wait for the other version; then give the first one the traffic."""
        require_running(versions[0], event)
        if versions[1:]:
            self._wait(cast, versions[1:])
        made = Cast.model_validate(cast)
        copy = release_moves_of(made.drill.copy_name)
        begun = copy.begin(f"{made.drill.drill_id}/stable", copy.registry.version(copy.model, made.stable))
        copy.promote(begun.release_id, made.stable, begun.stable, made.spec)
        return cast


class DrillOperator(BaseOperator):
    """Release the copy's canary under load, inject the fault, and record whether the rollback worked.

    The task plays the callers, the release and the fault itself, so it keeps its worker: a quarter of a minute for a
    bad canary, five minutes at most. It is not retried, because a retry would meet the broken copy of this try.
    Clearing it clears the whole drill.

    :param cast: what `PrepareDrillOperator` returned (templated)
    :returns: the result, as the ledger keeps it
    :raises AirflowFailException: the drill has failed; the message says what did not hold
    """

    template_fields: Sequence[str] = ("cast",)

    def __init__(self, *, cast: Any, **kwargs: Any) -> None:
        super().__init__(**{"execution_timeout": timedelta(minutes=5), **kwargs, "retries": 0})
        self.cast = cast

    def execute(self, context: Any) -> dict[str, Any]:
        """Play the scene, compare with what must hold, and record the result."""
        cast = Cast.model_validate(self.cast)
        drill, criteria = cast.drill, pass_criteria(cast.drill.fault)
        bodies = single_rows(_storage().get_bytes(cast.original.smoke_key))
        token = os.environ.get("TAXIWAY_DRILL_TOKEN")  # for an edge that asks its callers for one
        load = Load(endpoint(Settings.load().edge_url, drill.copy_name), bodies, token=token)
        scene = Scene(cast, release_moves_of(drill.copy_name), Cluster(drill), load, self.log)
        drills = Drills(_traffic(drill.model).ledger, drill.model)
        versions = {"version": cast.original.version, "stable": cast.stable, "canary": cast.canary}
        facts = {**versions, "limits": criteria.model_dump()}
        try:
            seen = asyncio.run(scene.play())
        except TaxiwayError as error:
            drills.record(drill, passed=False, problems=[str(error)], facts=facts)
            raise AirflowFailException(str(error)) from error
        wrong = problems(drill.fault, seen, criteria)
        row = drills.record(drill, passed=not wrong, problems=wrong, facts={**facts, **seen.model_dump(mode="json")})
        self.log.info("%s: %s", drill.fault, row.payload())
        if wrong:
            raise AirflowFailException(f"{drill.fault}: {'; '.join(wrong)}")
        return row.payload()


class CleanUpDrillOperator(_OfClaim):
    """Remove the copy, whatever the drill's result, and notify of a drill that failed.

    :param claimed: what `ClaimDrillOperator` returned (templated)
    """

    def execute(self, context: Any) -> None:
        """Remove the copy, record that, and notify if the drill has failed."""
        drill = Drill.model_validate(self.claimed["drill"])
        drills = Drills(_traffic(drill.model).ledger, drill.model)
        result = copies.clean_up(_traffic(drill.copy_name), drills, drill, _storage(), by=drill.drill_id)
        if not result.passed:
            text = f"the drill {drill.fault} failed: {'; '.join(result.problems)}"
            tell(spec_of(drill.model), "rolled_back", text, context, drill=drill.drill_id, fault=drill.fault)


class RemoveDrillCopiesOperator(BaseOperator):
    """Remove the copies of drills that were killed. Drills that are under way are left alone.

    :param model: name of one copy; empty for all (templated)
    :returns: by the copy's name, what was done
    :raises AirflowFailException: a copy could not be removed
    """

    template_fields: Sequence[str] = ("model",)

    def __init__(self, *, model: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def execute(self, context: Any) -> dict[str, list[str]]:
        """Clean up after one copy's drills after another; one that fails does not keep the others waiting."""
        ledger, is_alive = _ledger(), alive(context)
        unfinished: dict[str, list[Drill]] = {}
        for drill in Drills(ledger).unfinished():
            unfinished.setdefault(drill.copy_name, []).append(drill)
        done: dict[str, list[str]] = {}
        problems: list[str] = []
        for name, drills in unfinished.items():
            if self.model not in ("", name) or any(map(is_alive, drills)):
                continue
            try:
                for drill in drills:
                    copies.clean_up(_traffic(name), Drills(ledger, drill.model), drill, _storage(), by="reconcile")
                    done.setdefault(name, []).append(f"clean up after the drill {drill.fault}")
            except TaxiwayError as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise AirflowFailException("; ".join(problems))
        return done


def _traffic(model: str) -> ModelTraffic:
    return release_moves_of(model).traffic


def _ledger() -> Ledger:
    from operators.core.ledger import Ledger

    return Ledger(Settings.load().ledger_url)


def _storage() -> Storage:
    return Storage(storage_url())
