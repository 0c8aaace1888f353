"""Is a version also worse on days that were not observed? Blocks of numbers that belong together, such as those of a day.

Within a block, numbers may depend on each other in any way: on a stormy day one version may be wrong all the time. So a block
is one observation, however many numbers it has: how much worse the version was in it. The null hypothesis: given the
blocks before, a block's harm is as likely to lie some distance above h as the same distance below it, and h is not above
the bound. Then a block is a coin toss between "this far above" and "this far below". The capital that bets on "above" grows by

    2 / (1 + exp(-2 λ x)) = exp(λ x) / cosh(λ x)      x: the block's harm over the bound

If h is at the bound, its expectation is 1, as it and its mirror image add up to 2; if h is below, it is at most 1, as it
rises in x. It is mixed over λ. Neither the spread of the blocks nor its shape need be known. A block at most doubles the
capital: a threshold of 100 takes seven blocks.

Source: the e-values of Fisher's type in Vovk and Wang, "Nonparametric e-tests of symmetry" (NEJSDS 2, 2024); symmetry in
place of a variance goes back to Efron, "Student's t-test under symmetry conditions" (JASA 64, 1969), and de la Peña, "A
general class of exponential inequalities for martingales and ratios" (Annals of Probability 27, 1999).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import ceil, exp, log, log1p
from typing import NamedTuple

from operators.judge.statistics.numeric import first_above, log_mean

# (λ, mass): harms from a thousandth of the range to half of it. Good versions differ by points, so most is there.
_BETS = ((3.0, 0.5), (10.0, 0.7), (30.0, 1.0), (100.0, 2.0), (300.0, 2.0), (1000.0, 2.0))


class Block(NamedTuple):
    """A block that has passed.

    :param harm: sum of the numbers, each from -1 to 1; above 0: worse
    :param size: how many
    :param answered: how many there might have been. Blocks are weighted by it, so it must be known before their numbers are
    """

    harm: float
    size: int
    answered: int

    def mirrored(self) -> Block:
        """Return the same with the arms exchanged."""
        return self._replace(harm=-self.harm)


def log_e_above(blocks: Sequence[Block], bound: float) -> float:
    """Return the log e-value against "the blocks' harm is symmetric about ``bound``, or about less"; falling in ``bound``.

    :param blocks: oldest first
    :param bound: harm per number
    """
    largest, over = 1, []
    for block in blocks:
        # Relative to the largest so far: a block with few numbers shows little.
        largest = max(largest, block.answered)
        over.append((block.harm - block.size * bound) / largest)
    return deque(log_e_along(over), maxlen=1).pop() if over else 0.0


def log_e_along(over: Sequence[float]) -> Iterator[float]:
    """Yield the log e-value after each block.

    :param over: by how much each was above the bound
    """
    logs = [0.0] * len(_BETS)
    for x in over:
        logs = [total + _log_gain(bet * x) for total, (bet, _) in zip(logs, _BETS, strict=True)]
        yield log_mean((mass, total) for total, (_, mass) in zip(logs, _BETS, strict=True))


def upper(blocks: Sequence[Block], level: float) -> float:
    """Return the upper end of the confidence sequence of the harm; 1 while there are too few blocks.

    :param level: chance of error
    """
    size = sum(block.size for block in blocks)
    if not size:
        return 1.0
    mirrored = [block.mirrored() for block in blocks]
    mean = sum(block.harm for block in blocks) / size
    return first_above(lambda x: log_e_above(mirrored, -x), -log(level), min(max(mean, -1.0), 1.0), 1.0)


def fewest(log_threshold: float) -> int:
    """Return how many blocks it takes at least until an e-value can reach a threshold."""
    return ceil(log_threshold / log(2))


def _log_gain(x: float) -> float:
    """Return log(2 / (1 + exp(-2 x)))."""
    return log(2) - log1p(exp(-2 * x)) if x > 0 else log(2) + 2 * x - log1p(exp(2 * x))
