"""Plans: the candidates of each group, the budgets, and the choice of candidates under the budgets."""

from onnxprune.search.budgets import Balance, Budget
from onnxprune.search.candidates import (
    Candidate,
    curve_of,
    globally,
    make_offer,
    sensitively,
    uniformly,
)
from onnxprune.search.greedy import allocate
from onnxprune.search.limits import DEFAULT_ROUND_TO, Limits
from onnxprune.search.optimum import optimise
from onnxprune.search.planner import Strategy

__all__ = [
    "DEFAULT_ROUND_TO",
    "Balance",
    "Budget",
    "Candidate",
    "Limits",
    "Strategy",
    "allocate",
    "curve_of",
    "globally",
    "make_offer",
    "optimise",
    "sensitively",
    "uniformly",
]
