"""The algebra of sizes: polynomials with division, minimum, comparison, and their proofs.

algebra            the names that other rooms import
polynomial         sums of products, each held once
bounds             limits, by interval arithmetic
proofs             proofs that a size is never negative
division           floors, exact quotients
functions          minimum, comparisons, choices, rounded numbers
substitution       numbers or sizes in the place of symbols
conditions         conditions on sizes, as a network puts them
facts              equations and limits learned from a network
tensors            small tensors of sizes, and their types
tensor_arithmetic  the same, computed element by element
size_text          sizes as people write them
"""
