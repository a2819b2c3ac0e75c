"""The size of every axis as an expression of the open input axes.

The algebra, imported as `onnxprune.sizes.algebra`:

polynomial    sums of products, each held once
bounds        limits, by interval arithmetic
proofs        what is never negative
division      floors, exact quotients
functions     minimum, comparisons, choices
evaluation    numbers for symbols
text          as people write them
"""
