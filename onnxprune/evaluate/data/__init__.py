"""Samples for a model: what ``--data`` names.

schema      what the model takes, and whether arrays fit it
sources     where arrays come from: .npz shards, a callable, memory
dataset     batches, in order or shuffled
"""

from onnxprune.evaluate.data.dataset import Batch, Dataset, DataSpec, open_data
from onnxprune.evaluate.data.schema import LABELS, class_axis

__all__ = ["LABELS", "Batch", "DataSpec", "Dataset", "class_axis", "open_data"]
