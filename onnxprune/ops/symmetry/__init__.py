"""Symmetry rules: the linear maps along an axis that each operator commutes with.

symmetry_kinds  kinds of maps, and the effect of a change of basis on the constants at a node
passage         one node, as a factor passes it
products        convolutions and matrix products
pointwise       sums, products, activations
movement        operators that move or average elements
attention       attention in one node
norms           normalisations, and their replacements once their parameters are absorbed
table           entry of symmetry rules into the table of operators
"""

from onnxprune.ops.symmetry.symmetry_kinds import DualPair, Effect, Role, Symmetry, Vector, meet

__all__ = ["DualPair", "Effect", "Role", "Symmetry", "Vector", "meet"]
