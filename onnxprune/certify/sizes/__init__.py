"""Sizes of tensors, as integers times unknowns.

size_monomials  a size
size_rules      the size rules: the table, and operators element by element
window_sizes    windows that move along spatial axes, borders, scales
move_sizes      rearranged, cut, joined and repeated tensors
product_sizes   products and recurrences
known_values    constants and shape arithmetic
"""
