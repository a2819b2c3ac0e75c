"""Channels without any influence on the outputs, found in the weights alone.

precomputed           weights that other constants make, as constants
constant_propagation  channels that are the same for every input
liveness              channels that are zero, constant or unread
folding               constants added to the biases behind them
branches              branches that do not depend on the input
"""
