"""Who may move a route, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from operators.core.traffic import RouteBody
from ray_jobs.agent import rules
from ray_jobs.agent.rules import RefusedError, UnknownError
from ray_jobs.agent.state import HeldRoute
from ray_jobs.agent.wire import Renewal, Rollback

NOW = 1_000.0
ORDER = Rollback(reason="it is wrong", actor="ada")


def route(stable: str | None = "1", **more: Any) -> RouteBody:
    return RouteBody(**{"stable": stable, "holder": "r1", "lease_s": 60.0, **more})


def move(held: HeldRoute | None, to: RouteBody, *, force: bool = False, now: float = NOW) -> HeldRoute:
    return rules.set_to(held, to, model="m", caller=to.holder, force=force, now=now)


class TestHolder:
    def test_a_free_route_is_anybodys_and_a_held_one_is_not(self) -> None:
        free = move(None, route(holder=None))
        held = move(free, route())
        for other in ("r2", None):
            with pytest.raises(RefusedError, match="held by r1"):
                move(held, route(holder=other))
            assert move(held, route(holder=other), force=True).route.holder == other

    def test_a_removal_is_checked_only_for_who_says_its_name(self) -> None:
        held = move(None, route())
        rules.removal(held, model="m", caller=None, force=False)
        rules.removal(held, model="m", caller="r1", force=False)
        rules.removal(held, model="m", caller="r2", force=True)
        rules.removal(None, model="m", caller="r2", force=False)
        with pytest.raises(RefusedError):
            rules.removal(held, model="m", caller="r2", force=False)


class TestLease:
    @pytest.mark.parametrize(
        ("more", "ends_at"),
        [
            ({}, None),
            ({"canary": "2"}, None),
            ({"canary": "2", "weight_bp": 1}, NOW + 60),
            ({"shadow": "2", "shadow_bp": 1}, NOW + 60),
            ({"shadow": "2", "shadow_bp": 1, "lease_s": None}, None),
        ],
    )
    def test_what_ends_by_itself_is_what_has_a_share(self, more: dict[str, Any], ends_at: float | None) -> None:
        assert move(None, route(**more)).expires_at == ends_at

    def test_a_renewal(self) -> None:
        held = move(None, route(canary="2", weight_bp=500))
        renewal = Renewal(holder="r1")
        assert rules.renewed(held, renewal, model="m", now=NOW + 59.9).expires_at == NOW + 119.9
        with pytest.raises(RefusedError, match="has ended"):
            rules.renewed(held, renewal, model="m", now=NOW + 60)
        with pytest.raises(RefusedError, match="held by r1, not by r2"):
            rules.renewed(held, Renewal(holder="r2"), model="m", now=NOW)
        with pytest.raises(UnknownError):
            rules.renewed(None, renewal, model="m", now=NOW)
        with pytest.raises(RefusedError, match="has ended"):
            rules.renewed(rules.ended(held), renewal, model="m", now=NOW)
        with pytest.raises(RefusedError, match="rolled back"):
            rules.renewed(rules.rolled_back(held, ORDER)[0], renewal, model="m", now=NOW)
        waiting = move(None, route(canary="2"))
        assert rules.renewed(waiting, renewal, model="m", now=NOW) == waiting

    def test_after_its_end_nothing_has_a_share_and_a_new_route_may_give_one(self) -> None:
        held = rules.ended(move(None, route(canary="2", weight_bp=500, shadow="3", shadow_bp=9)))
        assert (held.route.weight_bp, held.route.shadow_bp, held.expires_at) == (0, 0, None)
        again = move(held, route(canary="2", weight_bp=500))
        assert not again.ended
        assert again.weight_now_bp(NOW) == 500

    def test_the_weight_in_force(self) -> None:
        held = move(None, route(canary="2", weight_bp=500))
        assert [held.weight_now_bp(NOW + s) for s in (0, 59.9, 60, 70)] == [500, 500, 0, 0]


class TestRollback:
    def test_the_version_before_is_the_one_that_was_promoted_over(self) -> None:
        held = move(move(None, route("1")), route("1", canary="2", weight_bp=500))
        assert held.before is None
        held = move(held, route("2"))
        assert held.before == "1"
        assert move(held, route("2", canary="3")).before == "1"
        assert move(held, route("3")).before == "2"
        assert move(held, route("1")).before is None  # going back is no promotion

    def test_a_canary_loses_its_share(self) -> None:
        held = move(move(None, route("1")), route("2", canary="3", weight_bp=500, shadow="4", shadow_bp=7))
        assert rules.goes_back_to(held, model="m") is None
        new, left = rules.rolled_back(held, ORDER)
        assert left == "3"
        assert new.route == route("2", canary="3")
        assert new.before == "1"

    def test_where_nothing_had_traffic_nothing_has_lost_it(self) -> None:
        held = move(move(move(None, route("1")), route("2")), route(None))
        assert rules.goes_back_to(held, model="m") == "2"
        new, left = rules.rolled_back(held, ORDER)
        assert (new.route.stable, left, new.bar) == ("2", None, None)

    def test_a_canary_that_once_was_stable_is_a_canary(self) -> None:
        held = move(move(move(None, route("1")), route("2")), route("2", canary="1", weight_bp=500))
        assert held.before == "1"
        assert rules.goes_back_to(held, model="m") is None
        assert rules.rolled_back(held, ORDER)[1] == "1"

    def test_a_promotion_is_undone_once(self) -> None:
        promoted = move(move(None, route("1")), route("2"))
        watched = move(move(None, route("1")), route("2", canary="1", weight_bp=100, from_top=True))
        for held in (promoted, watched):
            assert rules.goes_back_to(held, model="m") == "1"
            new, left = rules.rolled_back(held, ORDER)
            assert (new.route, left) == (route("1"), "2")
            with pytest.raises(RefusedError, match="no version before"):
                rules.goes_back_to(new, model="m")

    def test_who_was_overruled_cannot_give_the_version_traffic(self) -> None:
        held, _ = rules.rolled_back(move(None, route(canary="2", weight_bp=500)), ORDER)
        for to in (route(canary="2", weight_bp=1), route("2"), route("2", canary="1")):
            with pytest.raises(RefusedError, match="was rolled back"):
                move(held, to)
            assert move(held, to, force=True).bar is None
        for to in (route(), route(canary="2"), route(canary="3", weight_bp=1)):
            kept = move(held, to)
            with pytest.raises(RefusedError, match="was rolled back"):  # also in two steps
                move(kept, route(canary="2", weight_bp=1))
        given_up = rules.set_to(held, route(holder=None), model="m", caller="r1", force=False, now=NOW)
        assert move(given_up, route(canary="2", weight_bp=1, holder="r2")).route.weight_bp == 1
