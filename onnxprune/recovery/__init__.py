"""Recovery without training: what pruning lost, brought back from a few samples without labels.

trace       a model run piece by piece, each node once, while its weights change
pair        a sparse model and the original it was pruned from, side by side
linear      convolutions and matrix products as one linear map of rows
moments     sums over calibration samples, and what follows from them
solve       ridge regression
shifts      where the mean of a result can be moved: biases, means, additions
methods     what is done at a node: least squares, bias, scale, BatchNormalization
sweep       all nodes in order of execution
"""

from onnxprune.recovery.methods import METHODS
from onnxprune.recovery.pair import Pair
from onnxprune.recovery.sweep import Settings, sweep

__all__ = ["METHODS", "Pair", "Settings", "sweep"]
