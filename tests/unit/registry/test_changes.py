"""What changed in the registry between two looks."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from operators.registry.changes import MOST_AT_ONCE, Change, Watermark, changes, first_look, on, wanted
from tests.support.watched_registry import Registry


def look(mark: Watermark, registry: Registry) -> list[Change]:
    seen = on(mark, registry.made)
    rows = [row for row in registry.rows if row.number > seen.version]
    return changes(seen, registry.made, rows[:MOST_AT_ONCE], more=len(rows) > MOST_AT_ONCE)


def test_what_is_there_at_first_is_the_baseline_unless_it_is_asked_for() -> None:
    registry = Registry()
    registry.create()
    registry.point("champion", "1")
    assert look(first_look("s", registry.made, 1, from_start=False), registry) == []
    found = look(first_look("s", registry.made, 1, from_start=True), registry)
    assert [(c.kind, c.version) for c in found] == [("version_created", "1"), ("alias_set", "1")]
    assert look(first_look("s", None, 0, from_start=False), registry) == found


def test_own_moves_are_known_by_the_tag_of_the_model() -> None:
    registry = Registry()
    registry.create()
    registry.create(ours=True)
    mark = first_look("s", registry.made, 0, from_start=True)
    registry.point("champion", "2", ours=True)
    assert [c.ours for c in look(mark, registry)] == [False, True, True]
    registry.point("champion", "1")  # somebody moves it by hand
    assert [c.ours for c in look(mark, registry)] == [False, True, False]
    mark = mark.with_changes([(c, None) for c in look(mark, registry)])
    registry.point("champion", None, ours=True)
    assert [(c.kind, c.version, c.ours) for c in look(mark, registry)] == [("alias_removed", "1", True)]


def test_a_model_that_was_made_again_begins_anew() -> None:
    registry = Registry()
    for _ in range(3):
        registry.create()
    registry.point("champion", "1")
    mark = first_look("s", registry.made, 3, from_start=False)
    registry.delete()
    assert [(c.kind, c.alias) for c in look(mark, registry)] == [("alias_removed", "champion")]
    registry.create()
    registry.point("champion", "1")
    assert [(c.kind, c.version, c.previous) for c in look(mark, registry)] == [
        ("version_created", "1", None),
        ("alias_set", "1", None),
    ]


def test_aliases_wait_for_the_versions_that_they_may_name() -> None:
    registry = Registry()
    registry.create()
    mark = first_look("s", registry.made, 1, from_start=False)
    for _ in range(MOST_AT_ONCE + 1):
        registry.create()
    registry.point("champion", str(MOST_AT_ONCE + 2))
    first = look(mark, registry)
    assert {c.kind for c in first} == {"version_created"}
    second = look(mark.with_changes([(c, None) for c in first]), registry)
    assert [c.kind for c in second] == ["version_created", "alias_set"]


def test_only_what_is_wanted_is_reported() -> None:
    made = Change(kind="version_created", version="1")
    moved = Change(kind="alias_set", version="1", alias="champion", ours=True)
    rule: dict[str, Any] = {"kinds": ("version_created", "alias_set"), "aliases": None, "foreign_only": False}
    assert wanted(made, **rule)
    assert wanted(moved, **rule)
    assert not wanted(moved, **{**rule, "foreign_only": True})
    assert not wanted(moved, **{**rule, "aliases": ["challenger"]})
    assert wanted(made, **{**rule, "aliases": ["challenger"]})
    assert not wanted(made, **{**rule, "kinds": ("alias_set",)})


moves = st.one_of(
    st.just(("create",)),
    st.tuples(st.just("point"), st.sampled_from("ab"), st.integers(1, 5)),
    st.tuples(st.just("drop"), st.sampled_from("ab")),
    st.just(("delete",)),
    # A look, and where it is killed: before and after the watermark is written, after some events, after the last one.
    st.tuples(st.just("look"), st.sampled_from(["write", "report", "half", "confirm", "never"])),
)


class Airflow:
    """A triggerer that dies at will, and the events that got through."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.stored = first_look("s", None, 0, from_start=False)
        self.looked_at: dict[tuple[int, str], None] = {}

    def look(self, registry: Registry, killed_before: str) -> None:
        found = [(c, {"alias": c.alias, "version": c.version}) for c in look(self.stored, registry)]
        if killed_before == "write":
            return
        self.stored = on(self.stored, registry.made).with_changes(found)
        if registry.made:
            self.looked_at |= {(registry.made.created_ms, row.version): None for row in registry.rows}
        events = list(self.stored.outbox.values())
        self.events += {"report": [], "half": events[: len(events) // 2]}.get(killed_before, events)
        if killed_before == "never":
            self.stored = self.stored.confirmed(self.stored.outbox.keys())

    def taken(self) -> list[dict[str, Any]]:
        """What a consumer makes of it that drops the keys that it knows."""
        return list({event["key"]: event for event in self.events}.values())


def do(step: tuple[Any, ...], registry: Registry, airflow: Airflow) -> None:
    match step:
        case ("create",):
            registry.create()
        case ("point", alias, number) if number <= len(registry.rows):
            registry.point(alias, str(number))
        case ("drop", alias):
            registry.point(alias, None)
        case ("delete",):
            registry.delete()
        case ("look", killed_before):
            airflow.look(registry, killed_before)


@given(st.lists(moves, max_size=40))
def test_nothing_is_missed_and_nothing_fires_twice_wherever_it_is_killed(steps: list[Any]) -> None:
    registry, airflow = Registry(), Airflow()
    for step in [*steps, *[("look", "never")] * 3]:
        do(step, registry, airflow)
    created = [event["version"] for event in airflow.taken() if event["kind"] == "version_created"]
    assert created == [version for _, version in airflow.looked_at]
    aliases: dict[str, str | None] = {}
    for event in airflow.taken():
        if event["alias"]:
            aliases[event["alias"]] = event["version"] if event["kind"] == "alias_set" else None
    now = registry.made.aliases if registry.made else {}
    assert {alias: aliases.get(alias) for alias in now} == now
    assert airflow.stored.outbox == {}
