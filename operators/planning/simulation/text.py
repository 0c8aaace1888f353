"""Simulated releases for people."""

from __future__ import annotations

from collections.abc import Sequence

from operators.core.render import seconds, table
from operators.planning.simulation.report import Share, Spread, Summary

_COLUMNS = (
    "scenario",
    "promoted, %",
    "rolled back, %",
    "inconclusive",
    "found after",
    "units by then",
    "exposed",
    "harmed",
    "promoted in",
)


def rendered(summaries: Sequence[Summary], *, alpha: float, width: int) -> str:
    """Return the scenarios as text.

    :param alpha: of the release
    :param width: columns of the terminal
    """
    rows: list[Sequence[str]] = [
        (
            one.scenario,
            _share(one.promoted),
            _share(one.rolled_back),
            f"{100 * one.inconclusive.share:.1f}",
            "" if one.found_s is None else f"{seconds(one.found_s.median)}, {seconds(one.found_s.p90)}",
            _pair(one.found_units),
            f"{one.exposed_requests.mean:,.0f}",
            f"{one.harmed_requests:,.1f}",
            "" if one.promoted_after_s is None else seconds(one.promoted_after_s.median),
        )
        for one in summaries
    ]
    return "\n".join((table(_COLUMNS, rows, width=width), *_notes(summaries, alpha)))


def _notes(summaries: Sequence[Summary], alpha: float) -> list[str]:
    lines = [
        "In brackets: 95 % interval. Found after: half of the rollbacks, nine of ten. Exposed: requests that the new version",
        "answered; harmed: failed or slow, more than on stable; means of a release. The fallback hides the failed ones.",
    ]
    lines += [f"{one.scenario}: {one.meaning}{_ends(one)}." for one in summaries]
    for one in summaries:
        if one.false_alarms is not None:
            lines.append(
                f"False rollbacks, {one.scenario}: {one.false_alarms.count:,} of {one.releases:,} "
                f"({_share(one.false_alarms)} %); alpha is {100 * alpha:g} %."
            )
    minutes = sum(one.releases / one.releases_per_minute for one in summaries if one.releases_per_minute)
    releases, asked = sum(one.releases for one in summaries), sum(one.asked for one in summaries)
    spent_us = sum(one.asked * one.judge_us for one in summaries)
    lines.append(
        f"{releases:,} releases, {releases / minutes if minutes else 0:,.0f} a minute; "
        f"{sum(one.looks for one in summaries):,} looks, {asked:,} judgements of {spent_us / asked if asked else 0:,.0f} µs."
    )
    return lines


def _ends(summary: Summary) -> str:
    found = "".join(f"; {count:,} {where}" for where, count in summary.ends.items())
    blind = summary.false_alarms is None and not summary.rolled_back.count
    return found + ("; no guard of this spec has seen it" if blind else "")


def _share(share: Share) -> str:
    return f"{100 * share.share:.1f} ({100 * share.low:.1f}–{100 * share.high:.1f})"


def _pair(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:,.0f}, {spread.p90:,.0f}"
