"""Samples for a model: what ``--data`` names.

schema      what the model takes, and whether arrays fit it
sources     where arrays come from: .npz shards, a callable, memory
files       folders of pictures (`pictures`) and sounds (`waves`), a folder for each class or without
texts       .jsonl files, by a tokenizer
dataset     batches, in order or shuffled
"""

from onnxprune.evaluate.data.dataset import Batch, Dataset, DataSpec, open_data
from onnxprune.evaluate.data.schema import LABELS, class_axis
from onnxprune.evaluate.data.sources import GIVE_DATA

__all__ = ["GIVE_DATA", "LABELS", "Batch", "DataSpec", "Dataset", "class_axis", "open_data"]
