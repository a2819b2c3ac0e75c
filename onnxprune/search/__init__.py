"""Plans: the candidates of each group, the budgets, and the choice of candidates under the budgets.

budgets          amounts of a cost that are to go, and the distance of a plan from them
costs            costs that budgets can be made of
candidates       the removable steps of each group and their prices
limits, ties, steps    rounding, least widths, groups of one width, whole steps of a device
monomials        costs as polynomials that numpy can evaluate
latency_model    latency, measured at some widths and fitted in between
latency_table    the same measurements as a file
problem          the pruning problem: evidence, budgets, plan, check
solution         its solution, and the choice among solutions whose latency is measured
planner          the choice of a strategy
greedy           a plan by ranking
optimum          the best plan for additive losses, a multiple-choice knapsack
integer_program  the same as a mixed-integer linear program, solved by HiGHS
choices          one option for each of many places under budgets
rank_allocation  ranks of all layers together
evaluator, plan_trials, frontier    whole plans measured on data
plan_files       plans as files that people read, edit and apply
"""

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
