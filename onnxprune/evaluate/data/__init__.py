"""Samples for a model: the arguments of ``--data``.

schema      the arrays of a sample, and the check that they fit the model
sources     origins of arrays: .npz shards, a callable, memory
files       folders of pictures (`pictures`) and sounds (`waves`), a folder for each class or without
texts       .jsonl files, by a tokenizer
dataset     batches, in order or shuffled
"""

from onnxprune.evaluate.data.dataset import Batch, Dataset, DataSpec, open_data
from onnxprune.evaluate.data.input_schema import LABELS, class_axis
from onnxprune.evaluate.data.sources import GIVE_DATA

__all__ = ["GIVE_DATA", "LABELS", "Batch", "DataSpec", "Dataset", "class_axis", "open_data"]
