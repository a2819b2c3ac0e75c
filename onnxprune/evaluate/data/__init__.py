"""Samples for a model: the arguments of ``--data``.

input_schema    the arrays of a sample, and the check that they fit the model
sources         origins of arrays: .npz shards, a callable, memory
sample_folders  folders of pictures (`pictures`) and sounds (`waves`), a folder for each class or without
texts           .jsonl files, by a tokenizer
dataset         batches, in order or shuffled
pictures        pictures as arrays of a model's only input
preprocessing   preprocessing settings beside a folder of samples, in the format of Hugging Face's processors
waves           sounds as arrays of a model's only input
first_sample    the shapes of a sample, before a model is loaded into a runtime
"""

from onnxprune.evaluate.data.dataset import Batch, Dataset, DataSpec, open_data
from onnxprune.evaluate.data.first_sample import shapes_of_samples
from onnxprune.evaluate.data.input_schema import LABELS, class_axis
from onnxprune.evaluate.data.sources import GIVE_DATA

__all__ = [
    "GIVE_DATA",
    "LABELS",
    "Batch",
    "DataSpec",
    "Dataset",
    "class_axis",
    "open_data",
    "shapes_of_samples",
]
