"""The size of every axis as an expression of the open input axes.

infer         the analysis of a model
walk, node    node by node, bodies included; one node as its rule sees it
operators     the rules, one file a family; asking: operators without one
facts         what is learnt of symbols; conditions: what is demanded of them
inputs        the open axes: names, and numbers given for them
arithmetic    small tensors, element by element

The algebra, imported as `onnxprune.sizes.algebra`:

polynomial    sums of products, each held once
bounds        limits, by interval arithmetic
proofs        what is never negative
division      floors, exact quotients
functions     minimum, comparisons, choices
evaluation    numbers for symbols
text          as people write them
"""

from onnxprune.sizes.conditions import Condition
from onnxprune.sizes.infer import infer_sizes
from onnxprune.sizes.inputs import OpenAxis
from onnxprune.sizes.result import SizeAnalysis

__all__ = ["Condition", "OpenAxis", "SizeAnalysis", "infer_sizes"]
