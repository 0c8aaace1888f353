"""The guards on labels: requests that both versions answered, and what became known of them later. Pure.

The judge keeps its chance of a false alarm for every version of which this is true: given the past, a block of time is at least
as likely to favour the canary by some amount as to disfavour it, and no pair is expected to lose more than a block may lose.
Then the chance that labels ever fail the version is at most their part of alpha, whatever goes together within a block, and
whenever and in whatever order labels come. With ``block: none`` the assumption is stronger: given the pairs before, a pair in
which the versions differ is as likely to favour either. That detects a loss far sooner, and is false wherever a version has
good days and bad days.
"""

from __future__ import annotations

from math import isfinite, log
from typing import NamedTuple

from operators.core.spec_judge import Judge
from operators.judge.evidence import Losses, PairCounts, Pairs
from operators.judge.statistics import blocks, means, ownership, shares
from operators.judge.statistics.blocks import Block
from operators.judge.statistics.numeric import log_average
from operators.judge.wording import GuardReport, Rules, proven, result_of, too_few, unknown, unproven


def labels(policy: Judge, pairs: Pairs | None, rules: Rules) -> GuardReport:
    """Right or wrong, by pair. If the canary is no worse, it is wrong in half of the pairs in which only one version is wrong."""
    guard = policy.labels
    assert guard is not None
    margin = rules.margin(guard.margin_pct / 100)
    if pairs is None:
        return unknown(rules, margin, "no labels have arrived")
    worse, better, awaited = pairs.canary_only_wrong, pairs.stable_only_wrong, pairs.open
    # Without the number of all pairs, only those that differ count: the harm then seems larger, never smaller.
    total = max(pairs.total, worse + better)
    same = total - worse - better
    # A label that may still come counts against what is to be proven: for the canary in `least`, for stable in `most`.
    least, most = shares.Harms(worse, better + awaited, same), shares.Harms(worse + awaited, better, same)
    bounds = -shares.upper(least.mirrored(), rules.level), shares.upper(most, rules.level)
    facts = f"of {total:,} labelled pairs, only the canary was wrong in {worse:,}, only stable in {better:,}"
    missing = too_few(total, guard.min_pairs, "labelled pairs")
    if awaited:
        facts += f"; {awaited:,} pairs with different answers have no label yet"
    if guard.block_s:
        by_block = _Blocks(
            [
                Block(b.canary_only_wrong - b.stable_only_wrong - b.open, b.total + b.open, _size(b))
                for b in pairs.blocks
            ],
            [Block(b.canary_only_wrong - b.stable_only_wrong + b.open, b.total, _size(b)) for b in pairs.blocks],
        )
        # With the equal answers that wait for their labels: each of them lowers the mean harm.
        all_of_them = least._replace(same=max(same, pairs.answered - worse - better - awaited))
        log_e = by_block.log_e(shares.log_e_below(all_of_them.mirrored(), -guard.most_in_a_block))
        bounds = by_block.wider(bounds, rules.level)
        missing = missing or by_block.lacking(rules.level, guard.block_s)
        facts += f"; {_blocks(len(pairs.blocks), guard.block_s)}"
    else:
        log_e = ownership.log_e([ownership.Events(worse, better + awaited, 0.5)], prior=ownership.PAIRS)
    missing = missing or unproven(bounds[1], margin, "points")
    result = result_of(rules, log_e, bounds, margin, missing)
    return GuardReport(result, facts, proven(bounds[1], margin, "points"))


def _size(block: PairCounts) -> int:
    return max(block.answered, block.total + block.open)


def loss(policy: Judge, losses: Losses | None, rules: Rules) -> GuardReport:
    """Errors by pair, each at most ``largest``."""
    guard = policy.loss
    assert guard is not None
    largest, margin = guard.largest, rules.margin(guard.margin)
    lacking = "" if losses and losses.count else "no labels have arrived"
    if losses and not isfinite(losses.total + losses.squares + losses.open_total + losses.open_squares):
        lacking = "an error is not a finite number"
    if lacking or losses is None:
        return unknown(rules, margin, lacking)
    least, most = ([[_loss_sums(losses, largest, side)]] for side in (-1, 1))
    bounds = tuple(
        end * largest for end in (means.interval(least, rules.level)[0], means.interval(most, rules.level)[1])
    )
    facts = f"the canary's mean error minus stable's is {losses.total / losses.count:.4g} over {losses.count:,} labelled pairs"
    missing = too_few(losses.count, guard.min_pairs, "labelled pairs")
    if guard.block_s:
        by_block = _Blocks(
            [Block((b.total - b.open_total) / largest, b.count + b.open, b.answered) for b in losses.blocks],
            [Block((b.total + b.open_total) / largest, b.count, b.answered) for b in losses.blocks],
        )
        all_of_them = least[0][0]._replace(size=max(least[0][0].size, losses.answered))
        log_e = by_block.log_e(means.log_e_above([[all_of_them]], min(guard.most_in_a_block / largest, 1.0)))
        low, high = by_block.wider((bounds[0] / largest, bounds[1] / largest), rules.level)
        bounds = low * largest, high * largest
        missing = missing or by_block.lacking(rules.level, guard.block_s)
        facts += f"; {_blocks(len(losses.blocks), guard.block_s)}"
    else:
        log_e = means.log_e_above(least, 0.0)
    missing = missing or unproven(bounds[1], margin)
    result = result_of(rules, log_e, (bounds[0], bounds[1]), margin, missing)
    return GuardReport(result, facts, proven(bounds[1], margin))


def _loss_sums(losses: Losses, largest: float, side: int) -> means.Sums:
    """Return the differences, scaled into -1..1.

    :param side: -1: labels that may still come count for the canary; 1: for stable
    """
    size = losses.count + (losses.open if side < 0 else 0)
    total = (losses.total + side * losses.open_total) / largest
    return means.Sums(size, total, (losses.squares + losses.open_squares) / largest**2, -1.0, 1.0)


class _Blocks(NamedTuple):
    """What blocks of time show in addition to the pairs: a version may be better on some days and worse on others.

    A version fails when its blocks, each one a coin toss, prove harm, or when its pairs prove more harm than any block may have.
    So for a version that is no worse this must hold: its blocks lose no more often than they win, and no block is expected to
    lose that much.

    :param least: the blocks, with open labels counted for the canary
    :param most: the blocks, with open labels counted for stable
    """

    least: list[Block]
    most: list[Block]

    def log_e(self, log_e_of_pairs: float) -> float:
        """Return the average of both e-values.

        :param log_e_of_pairs: against "no block is expected to lose more than a block may"
        """
        return log_average([blocks.log_e_above(self.least, 0.0), log_e_of_pairs])

    def wider(self, bounds: tuple[float, float], level: float) -> tuple[float, float]:
        """Return the interval that holds for pairs and for blocks."""
        low = -blocks.upper([block.mirrored() for block in self.least], level)
        return min(bounds[0], low), max(bounds[1], blocks.upper(self.most, level))

    def lacking(self, level: float, block_s: float) -> str:
        """Say that so few blocks cannot prove anything, or return an empty string."""
        needed = blocks.fewest(-log(level))
        return f"at least {_blocks(needed, block_s)} are needed" if len(self.most) < needed else ""


def _blocks(count: int, block_s: float) -> str:
    return f"{count:,} {'block' if count == 1 else 'blocks'} of {block_s / 3600:g} h"
