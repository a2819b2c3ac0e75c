"""Plans: what each group has to give, the budgets that must hold, and how to choose between the two."""

from onnxprune.planning.budgets import Balance, Budget
from onnxprune.planning.greedy import allocate
from onnxprune.planning.limits import DEFAULT_ROUND_TO, Limits
from onnxprune.planning.offers import (
    Offer,
    curve_of,
    globally,
    make_offer,
    sensitively,
    uniformly,
)
from onnxprune.planning.optimum import optimise
from onnxprune.planning.planner import STRATEGIES

__all__ = [
    "DEFAULT_ROUND_TO",
    "STRATEGIES",
    "Balance",
    "Budget",
    "Limits",
    "Offer",
    "allocate",
    "curve_of",
    "globally",
    "make_offer",
    "optimise",
    "sensitively",
    "uniformly",
]
