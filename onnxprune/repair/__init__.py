"""Recovery without training: weights fitted to the original model on a few samples without labels.

pair        a sparse model and the original it was pruned from, side by side
stage       one node in both models, with its operands and its results
methods     repairs of one node: least squares, bias, scale, BatchNormalization
sweep       all nodes in order of execution
synthetic   drawn inputs, for recovery without samples
"""

from onnxprune.repair.methods import METHODS, RepairMethod
from onnxprune.repair.model_pair import ModelPair
from onnxprune.repair.sweep import RepairReport, Settings, sweep

__all__ = ["METHODS", "ModelPair", "RepairMethod", "RepairReport", "Settings", "sweep"]
