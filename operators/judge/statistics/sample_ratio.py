"""Is the traffic split as asked?

A unit of one period belongs to the canary with chance w. The e-value of the counts against that is the beta-binomial
likelihood over the binomial one: the sequential test of sample ratio mismatch of Lindon and Malek,
"Anytime-valid inference for multinomial count data" (NeurIPS 2022).
"""

from __future__ import annotations

from math import lgamma, log

from operators.judge.statistics.numeric import log_mean

# Deviations of the priors that are mixed, relative to the smaller arm: an arm that gets nothing, a fifth too much, a fiftieth.
_RELATIVE = (1.0, 0.2, 0.02)


def log_e(canary: int, stable: int, weight: float) -> float:
    """Return the log e-value against "each unit is the canary's with chance ``weight``".

    :param canary: units of the canary
    :param stable: units of stable
    :param weight: above 0 and below 1
    """
    smaller = min(weight, 1 - weight)
    asked = canary * log(weight) + stable * log(1 - weight)

    def mixed(relative: float) -> float:
        strength = (1 - smaller) / smaller / relative**2
        a, b = strength * weight, strength * (1 - weight)
        return _log_beta(a + canary, b + stable) - _log_beta(a, b)

    return log_mean((1.0, mixed(relative)) for relative in _RELATIVE) - asked


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
