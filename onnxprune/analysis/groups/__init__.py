"""Coupled channels: their axes, their costs, and the sets that can be chosen independently.

channels         the groups of a network, and its blocked axes
slots            removed channels where each part of a group may lose others
freedom          where that is exact
arrangement      the order of channels that makes them slots
zeros            where a removed channel is really zero
ghosts           the value of a removed channel that is not zero
weight_values    the numbers in weights
selection        groups by name, node or tensor
cost             multiply-accumulates and parameters as polynomials in the kept widths
attention_heads  attention heads among the groups of a network
axis_fibres      the lines of a tensor along the axis of a group
blocks           residual blocks: branches whose result is added to the stream that they start from
body_values      numbers at removed channels, followed through the bodies of If, Loop and Scan
channel_values   numbers that tensors hold at the removed channels of a factor
fibres           the elements of a tensor along a factor, so that a linear map can be applied to them
group_symmetry   the symmetry of a group: the maps that all operators its channels pass commute with
integers         quantised integers: the zero point of each integer tensor
openings         options that open blocked axes, with the share of the network that each brings into reach
reach            reach: the share of parameters and MACs that lies on removable channels, and the rest
spared           weights that masking leaves as they are
"""
