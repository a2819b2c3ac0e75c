"""Channels removed: first as zeros, then for good.

planned  the plan in a sparse model
masks    its zeros
shrink   the dense model
"""
