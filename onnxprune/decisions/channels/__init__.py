"""Channels removed: first as zeros, then for good.

planned  the plan in a sparse model
masks    its zeros
ghosts   sums corrected by what is gone
configuration  files beside a model that say how wide it is
interface  inputs and outputs that shrink with it
shrink   the dense model
fed      the same, for data of the whole one
"""
