"""Recovery without training: what pruning lost, brought back from a few samples without labels.

pair        a sparse model and the original it was pruned from, side by side
stage       one node in both models, and what arrives there and leaves it
methods     what is done at a node: least squares, bias, scale, BatchNormalization
sweep       all nodes in order of execution
synthetic   inputs for those who have no samples
"""

from onnxprune.repair.methods import METHODS, RepairMethod
from onnxprune.repair.pair import ModelPair
from onnxprune.repair.sweep import RepairReport, Settings, sweep

__all__ = ["METHODS", "ModelPair", "RepairMethod", "RepairReport", "Settings", "sweep"]
