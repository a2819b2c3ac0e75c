"""The modules whose import fills the table with symmetry rules."""

from onnxprune.ops.symmetry import movement, norms, pointwise, products

FAMILIES = (movement, norms, pointwise, products)
