"""Coupled channels: their axes, their costs, and the sets that can be chosen independently.

channels     the groups of a network, and its blocked axes
slots        removed channels where each part of a group may lose others
freedom      where that is exact
arrangement  the order of channels that makes them slots
zeros        where a removed channel is really zero
ghosts       the value of a removed channel that is not zero
values       the numbers in weights
selection    groups by name, node or tensor
cost         multiply-accumulates and parameters as polynomials in the kept widths
"""
