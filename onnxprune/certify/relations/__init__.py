"""The elements of a sparse tensor that a dense one holds.

element_bounds  intervals that hold elements of the sparse model, for all inputs
relation        index lists and shifts of a tensor
reshaping       the same through Reshape
kept_constants  dense constants compared with the kept elements of sparse ones
"""
