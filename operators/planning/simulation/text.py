"""The text of `taxiway simulate`."""

from __future__ import annotations

from collections.abc import Sequence

from operators.core.render import seconds, table
from operators.planning.simulation.report import Share, Spread, Summary

_COLUMNS = (
    "scenario",
    "promoted, %",
    "rolled back, %",
    "inconclusive",
    "rolled back after",
    "units by then",
    "exposed",
    "harmed",
    "promoted in",
)


def rendered(summaries: Sequence[Summary], *, alpha: float, width: int) -> str:
    """Return the summaries of the scenarios as text.

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
        "In brackets: the 95 % interval. Rolled back after, and units by then: for half of the rollbacks, for nine of ten.",
        "Exposed: requests that were sent to the new version. Harmed: how many more of them failed or were slow than on stable.",
        "Both are means per release. Callers do not see the failures: stable answers instead.",
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
    mean_us = sum(one.asked * one.judge_us for one in summaries) / asked if asked else 0
    per_minute = releases / minutes if minutes else 0
    lines.append(
        f"{releases:,} releases, {per_minute:,.0f} per minute; "
        f"{sum(one.looks for one in summaries):,} looks, the judge was asked {asked:,} times, {mean_us:,.0f} µs each."
    )
    return lines


def _ends(summary: Summary) -> str:
    ends = "".join(f"; {count:,} {where}" for where, count in summary.ends.items())
    blind = summary.false_alarms is None and not summary.rolled_back.count
    return ends + ("; no guard of this spec has detected it" if blind else "")


def _share(share: Share) -> str:
    return f"{100 * share.share:.1f} ({100 * share.low:.1f}–{100 * share.high:.1f})"


def _pair(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:,.0f}, {spread.p90:,.0f}"
