"""Channels that live and die together: where they are, what they cost, what may be chosen apart.

channels     the groups of a network, and its blocked axes
slots        removed channels where each part of a group may lose others
freedom      where that is exact
arrangement  the order of channels that makes them slots
zeros        where a removed channel is really zero
ghosts       what it holds where it is not
values       the numbers in weights
selection    groups by name, node or tensor
cost         multiply-accumulates and parameters as polynomials in what is kept
"""
