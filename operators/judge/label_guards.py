"""The guards on labels: requests that both versions answered, and what became known of them later. Pure.

What is said, and of what: given the past, a block of time is as likely to be better than h by some amount as worse by it,
with h at most 0, and no pair is expected to lose more than a block may lose. For every version of which this is true, the
chance that labels ever fail it is at most their part of alpha, whatever goes together within a block, whenever and in
whatever order labels come. With ``block: none`` it is: given the pairs before, one in which the versions differ is as likely
to speak for the one as for the other. That is far quicker to refute, and false wherever a version has good days and bad days.
"""

from __future__ import annotations

from math import isfinite, log
from typing import NamedTuple

from operators.core.spec_judge import Judge
from operators.judge.evidence import Losses, PairCounts, Pairs
from operators.judge.statistics import blocks, means, ownership, shares
from operators.judge.statistics.blocks import Block
from operators.judge.statistics.numeric import log_average
from operators.judge.wording import Rules, Said, reading_of, too_few, unproven


def labels(policy: Judge, pairs: Pairs | None, rules: Rules) -> Said:
    """Right or wrong by pair. Of the pairs in which one version was wrong, half are the canary's if it is no worse."""
    guard = policy.labels
    assert guard is not None
    margin = rules.margin(guard.margin_pct / 100)
    if pairs is None:
        return Said(reading_of(rules, 0.0, None, margin, "no labels have arrived"), "no labels have arrived")
    worse, better, awaited = pairs.canary_only_wrong, pairs.stable_only_wrong, pairs.open
    # If the number of all pairs was left out, those that differ are all: the harm then seems larger, never smaller.
    total = max(pairs.total, worse + better)
    same = total - worse - better
    # Labels that may still come are taken for what speaks against the proof: for the canary here, for stable there.
    least, most = shares.Harms(worse, better + awaited, same), shares.Harms(worse + awaited, better, same)
    bounds = -shares.upper(least.mirrored(), rules.level), shares.upper(most, rules.level)
    facts = f"of {total:,} labelled pairs only the canary was wrong in {worse:,}, only stable in {better:,}"
    missing = too_few(total, guard.min_pairs, "labelled pairs")
    if awaited:
        facts += f"; {awaited:,} that differ have no label yet"
    if guard.block_s:
        found = _Blocks(
            [
                Block(b.canary_only_wrong - b.stable_only_wrong - b.open, b.total + b.open, _size(b))
                for b in pairs.blocks
            ],
            [Block(b.canary_only_wrong - b.stable_only_wrong + b.open, b.total, _size(b)) for b in pairs.blocks],
        )
        # Equal answers that wait for their labels, too: each that is there lowers the mean harm.
        all_of_them = least._replace(same=max(same, pairs.answered - worse - better - awaited))
        log_e = found.log_e(shares.log_e_below(all_of_them.mirrored(), -guard.most_in_a_block))
        bounds = found.wider(bounds, rules.level)
        missing = missing or found.lacking(rules.level, guard.block_s)
        facts += f", in {len(pairs.blocks):,} blocks of {_hours(guard.block_s)}"
    else:
        log_e = ownership.log_e([ownership.Events(worse, better + awaited, 0.5)], prior=ownership.PAIRS)
    missing = missing or unproven(bounds[1], margin, points=True)
    return Said(reading_of(rules, log_e, bounds, margin, missing), facts, points=True)


def _size(block: PairCounts) -> int:
    return max(block.answered, block.total + block.open)


def loss(policy: Judge, losses: Losses | None, rules: Rules) -> Said:
    """Errors by pair, each at most ``largest``."""
    guard = policy.loss
    assert guard is not None
    largest, margin = guard.largest, rules.margin(guard.margin)
    lacking = "" if losses and losses.count else "no labels have arrived"
    if losses and not isfinite(losses.total + losses.squares + losses.open_total + losses.open_squares):
        lacking = "an error is not a finite number"
    if lacking or losses is None:
        return Said(reading_of(rules, 0.0, None, margin, lacking), lacking)
    least, most = ([[_loss_sums(losses, largest, side)]] for side in (-1, 1))
    bounds = tuple(
        end * largest for end in (means.interval(least, rules.level)[0], means.interval(most, rules.level)[1])
    )
    facts = (
        f"the canary's mean error is {losses.total / losses.count:+.4g} against stable's, over {losses.count:,} pairs"
    )
    missing = too_few(losses.count, guard.min_pairs, "labelled pairs")
    if guard.block_s:
        found = _Blocks(
            [Block((b.total - b.open_total) / largest, b.count + b.open, b.answered) for b in losses.blocks],
            [Block((b.total + b.open_total) / largest, b.count, b.answered) for b in losses.blocks],
        )
        all_of_them = least[0][0]._replace(size=max(least[0][0].size, losses.answered))
        log_e = found.log_e(means.log_e_above([[all_of_them]], min(guard.most_in_a_block / largest, 1.0)))
        low, high = found.wider((bounds[0] / largest, bounds[1] / largest), rules.level)
        bounds = low * largest, high * largest
        missing = missing or found.lacking(rules.level, guard.block_s)
        facts += f", in {len(losses.blocks):,} blocks of {_hours(guard.block_s)}"
    else:
        log_e = means.log_e_above(least, 0.0)
    missing = missing or unproven(bounds[1], margin)
    return Said(reading_of(rules, log_e, (bounds[0], bounds[1]), margin, missing), facts)


def _loss_sums(losses: Losses, largest: float, side: int) -> means.Sums:
    """Return the differences, scaled into -1..1.

    :param side: -1: those that may still come speak for the canary; 1: for stable
    """
    size = losses.count + (losses.open if side < 0 else 0)
    total = (losses.total + side * losses.open_total) / largest
    return means.Sums(size, total, (losses.squares + losses.open_squares) / largest**2, -1.0, 1.0)


class _Blocks(NamedTuple):
    """What blocks of time say beside the pairs: a version may be better on some days and worse on others.

    A version fails when blocks, each a coin, prove harm, or when pairs prove more harm than any block may have; so these must
    hold for a version that is no worse: its blocks are no likelier above 0 than below, and none is expected to lose that much.

    :param least: the blocks with what is open taken for the canary
    :param most: for stable
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
        """Say that so few blocks prove nothing, or return an empty string."""
        needed = blocks.fewest(-log(level))
        return too_few(len(self.most), needed, f"blocks of {_hours(block_s)}")


def _hours(time_s: float) -> str:
    return f"{time_s / 3600:g} h"
