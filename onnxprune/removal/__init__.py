"""Channels removed: first as zeros, then for good.

planned  the plan in a sparse model
masks    its zeros
interface  inputs and outputs that shrink with it
shrink   the dense model
"""
