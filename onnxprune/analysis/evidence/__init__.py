"""Channels that a network would not miss, found in its weights alone.

precomputed  weights that other constants make, as constants
constants    channels that are the same whatever the input
liveness     channels that are zero, constant or read by nobody
folding      constants added to the biases behind them
branches     branches of which nothing depends on the input
"""
