"""Recovery without training: weights fitted to the original model on a few samples without labels.

model_pair       a sparse model and the original it was pruned from, side by side
stage            one node in both models, with its operands and its results
methods          repairs of one node: least squares, bias, scale, BatchNormalization
sweep            all nodes in order of execution
synthetic        drawn inputs, for recovery without samples
alignment        names of constants of an original, aligned with those of its sparse model
chain_repair     chains of products whose layers were split anew, in the network as it is pruned and repaired
layer_fit        least squares of one layer: its Gram matrix, and its outputs a block at a time
low_rank_layers  layers of low rank
thinning         single elements of weights set to zero by a pattern
"""

from onnxprune.repair.methods import METHODS, RepairMethod
from onnxprune.repair.model_pair import ModelPair
from onnxprune.repair.sweep import RepairReport, Settings, sweep

__all__ = ["METHODS", "ModelPair", "RepairMethod", "RepairReport", "Settings", "sweep"]
